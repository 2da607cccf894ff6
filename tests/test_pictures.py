"""The pictures of the docs can be taken again by one command."""

from __future__ import annotations

import runpy
import shutil
import struct
from pathlib import Path

import pytest
from extracting import saved_model
from space_runs import TEXT, run_folder

from consistency_lens import ConsistencyLens
from consistency_lens.base.lens_card import TrainingRecord, write_plain_card

pytest.importorskip("gradio", reason="the Space needs the extra 'space'")
pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
from space_server import BROWSERS

ROOT = Path(__file__).parents[1]
NAMES = {"explorer", "scan", "edit", "compare", "report", "card"}


def size(picture: Path) -> tuple[int, int]:
    """Width and height, as a PNG says them."""
    width, height = struct.unpack(">II", picture.read_bytes()[16:24])
    return width, height


@pytest.mark.browser
def test_each_tab_and_the_card_on_a_desk_and_on_a_phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not any(map(shutil.which, BROWSERS)):
        pytest.skip("the browser tests need Chromium")
    run = shutil.copytree(run_folder(), tmp_path / "run")
    shutil.copytree(run / "report", run / "lens/report")
    lens = ConsistencyLens.from_pretrained(run / "lens")
    write_plain_card(run / "lens", lens.config, TrainingRecord(name="tiny", command="x\n" * 100))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    take = runpy.run_path(str(ROOT / "docs/take_pictures.py"))["main"]
    words = ["--lens", str(run), "--subject", str(saved_model()), "--text", TEXT, "--words", "w9 w8"]
    take([*words, "--folder", str(tmp_path / "out")])
    taken = {path.name: size(path) for path in (tmp_path / "out").iterdir()}
    assert set(taken) == {f"{prefix}{name}.png" for prefix in ("", "phone-") for name in NAMES}
    assert all(width == (390 if name.startswith("phone-") else 1280) for name, (width, _) in taken.items()), taken
    assert taken["card.png"][1] > 1200, "the whole card, and not what fits into a window"
