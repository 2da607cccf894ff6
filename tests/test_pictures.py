"""The pictures of the docs can be taken again by one command."""

from __future__ import annotations

import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from extracting import ROOT, saved_model
from PIL import Image
from space_runs import TEXT, run_folder

from consistency_lens import ConsistencyLens
from consistency_lens.base.saving.lens_card import TrainingRecord, write_plain_card

pytest.importorskip("gradio", reason="the Space needs the extra 'space'")
pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
from space_server import take_pictures

NAMES = {f"{prefix}{name}.png" for prefix in take_pictures.WIDTHS
         for name in ("explorer", "scan", "edit", "compare", "rates", "report", "card")}  # fmt: skip
OTHERS = {"console.png", *take_pictures.PLOTS}


def test_the_pictures_of_the_docs_are_those_that_are_taken() -> None:
    assert {path.name for path in (ROOT / "docs/images").glob("*.png")} >= NAMES | OTHERS


def test_a_picture_is_kept_in_few_bytes(tmp_path: Path) -> None:
    """Colours that eyes can tell apart stay apart."""
    x, y = np.meshgrid(np.arange(256), np.arange(256))
    array = np.stack([x, y // 128 * 255, 255 - x], -1).astype(np.uint8)
    drawn = BytesIO()
    Image.fromarray(array).save(drawn, "png")
    take_pictures.keep(drawn.getvalue(), tmp_path / "kept.png")
    kept = Image.open(tmp_path / "kept.png")
    assert kept.mode == "P" and np.abs(np.asarray(kept.convert("RGB")).astype(int) - array).max() < 16


def test_the_terminal_is_that_of_the_last_evaluation(tmp_path: Path) -> None:
    title, log = "of 128 held-out activations, from the lowest", tmp_path / "log.txt"
    log.write_text(f"step 1: {title}\n  early\nwarm\nstep 2: {title}\n\n  KL\n\n  0.1  late\n\nthe report\n  more\n")
    shown = take_pictures.said_last(log).splitlines()
    assert shown[-1] == "  0.1  late" and "warm" in shown
    log.write_text("nothing\n")
    with pytest.raises(SystemExit, match="name the folder of a run"):
        take_pictures.said_last(log)


@pytest.mark.browser
def test_each_tab_and_the_card_on_a_desk_and_on_a_phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not any(map(shutil.which, take_pictures.BROWSERS)):
        pytest.skip("the browser tests need Chromium")
    run = shutil.copytree(run_folder(), tmp_path / "run")
    shutil.copytree(run / "report", run / "lens/report")
    lens = ConsistencyLens.from_pretrained(run / "lens")
    write_plain_card(run / "lens", lens.config, TrainingRecord(name="tiny"))
    with (run / "lens/README.md").open("a") as card:
        card.write("\n\nWritten by a person." * 60)
    (run / "log.txt").write_text("training 9/9\nstep 9: 4 of 128 held-out activations, from\n\n  <b>0.1\n\nthe end\n")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ["--lens", str(run), "--subject", str(saved_model()), "--text", TEXT, "--words", "w9 w8"]
    take_pictures.main([*words, "--folder", str(tmp_path / "out")])
    taken = {path.name: Image.open(path).size for path in (tmp_path / "out").iterdir()}
    assert set(taken) == NAMES | OTHERS
    assert all(taken[name][0] == (390 if name.startswith("phone-") else 1280) for name in NAMES), taken
    assert taken["card.png"][1] > 1200, "the whole card, and not what fits into a window"
