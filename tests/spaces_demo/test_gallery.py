"""The gallery of the Space: what it finds here and on the Hub, and that nothing else is opened."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from extracting import saved_model
from space_runs import TEXT, lens, lenses, run_folder

from consistency_lens import AutoLens, BadInput

pytest.importorskip("gradio", reason="the Space needs the extra 'space'")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
from gallery import Gallery, chosen_roots, local_runs
from hub_client import HubClient
from hub_server import Blob, Hub, Trouble
from lenses import Lenses, newest_demo


def test_runs_of_this_machine_are_found_and_opened(tmp_path: Path) -> None:
    lens().save_pretrained(tmp_path / "outputs/older/lens")
    lens().save_pretrained(tmp_path / "outputs/newer/lens")
    os.utime(tmp_path / "outputs/older/lens/config.json", (1, 1))
    (tmp_path / "outputs/broken/lens").mkdir(parents=True)
    (tmp_path / "outputs/broken/lens/config.json").write_text("{")
    (tmp_path / "outputs/unfinished").mkdir()
    found = local_runs([tmp_path])
    said = [f"{name} · consistency lens of tiny-llama · this machine" for name in ("newer", "older")]
    assert [each.shown for each in found] == said
    shown = Lenses([str(run_folder())], subject=str(saved_model()))
    gallery = Gallery(shown, [tmp_path])
    names, damage = gallery.look()
    assert names == said and damage.startswith("The Hub shows nothing: the Hub is switched off")
    assert gallery.open(said[1]) == "older" and "older" in shown.names
    assert shown.get("older").explain(TEXT) == lens().explain(TEXT)
    count = len(shown.names)
    assert gallery.open(said[1]) == "older" and len(shown.names) == count


@pytest.mark.parametrize("damaged", ["model.safetensors", "config.json"])
def test_a_lens_that_cannot_be_loaded_is_not_among_those_that_are_there(tmp_path: Path, damaged: str) -> None:
    """Nor are its checkpoints; and once it is whole, it is opened under its own name."""
    run, shown = tmp_path / "outputs/a_run", Lenses([str(run_folder())], subject=str(saved_model()))
    for name in ("lens", "checkpoint-1"):
        lens().save_pretrained(run / name)
    (run / "history.json").write_text("[]")
    gallery = Gallery(shown, [tmp_path])
    (said,), _ = gallery.look()
    whole, before = (run / "lens" / damaged).read_bytes(), shown.names
    (run / "lens" / damaged).write_bytes(whole[: len(whole) // 2])
    for _ in range(2):
        with pytest.raises(BadInput):
            gallery.open(said)
        assert shown.names == before
        with pytest.raises(BadInput, match="Choose one of"):
            shown.get("a_run · checkpoint-1")
    (run / "lens" / damaged).write_bytes(whole)
    assert gallery.open(said) == "a_run"
    assert shown.names == [*before, "a_run", "a_run · checkpoint-1"]
    assert shown.get("a_run · checkpoint-1").explain(TEXT) == lens().explain(TEXT)


def test_lenses_are_opened_by_several_at_once_and_the_broken_one_alone_is_missing(tmp_path: Path) -> None:
    shown = Lenses([str(run_folder())], subject=str(saved_model()))
    places = [tmp_path / f"outputs/run_{number}/lens" for number in range(4)]
    for place in places:
        lens().save_pretrained(place)
    (places[1] / "model.safetensors").write_bytes(b"cut off")

    def opened(place: Path) -> str:
        try:
            return shown.add(str(place))
        except BadInput:
            return "broken"

    with ThreadPoolExecutor(4) as pool:
        names = list(pool.map(opened, places))
    assert names == ["run_0", "broken", "run_2", "run_3"]
    assert sorted(shown.names[2:]) == ["run_0", "run_2", "run_3"]


def test_a_run_that_goes_away_while_somebody_looks_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stays_demo_", "goes_demo_"):
        lens().save_pretrained(tmp_path / f"outputs/{name}/lens")
    listed, kept = Path.glob, tmp_path / "kept"
    shutil.copytree(tmp_path / "outputs/goes_demo_", kept)

    def glob(folder: Path, pattern: str) -> Iterator[Path]:
        found = list(listed(folder, pattern))
        shutil.rmtree(tmp_path / "outputs/goes_demo_", ignore_errors=True)
        return iter(found)

    monkeypatch.setattr(Path, "glob", glob)
    assert [Path(each.place).name for each in local_runs([tmp_path])] == ["stays_demo_"]
    shutil.copytree(kept, tmp_path / "outputs/goes_demo_")
    assert newest_demo([tmp_path]) == tmp_path / "outputs/stays_demo_/lens"


@pytest.mark.parametrize("sent", ["/etc", "me/other", "", None, 3, ["older"]])
def test_nothing_that_was_not_found_is_opened(tmp_path: Path, sent: Any) -> None:
    before = list(lenses().names)
    gallery = Gallery(lenses(), [tmp_path])
    gallery.look()
    with pytest.raises(BadInput, match="no such lens was found"):
        gallery.open(sent)
    assert lenses().names == before


def test_folders_that_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    assert chosen_roots([]) == [tmp_path] == chosen_roots([str(tmp_path / "outputs")])
    with pytest.raises(BadInput, match="gallery="):
        chosen_roots([str(tmp_path / "nowhere")])


# ---- these functions run in the client's process


def push(name: str) -> None:
    lens().push_to_hub(name)


def found_there(root: str) -> tuple[list[str], str]:
    return Gallery(Lenses([str(run_folder())], subject=str(saved_model())), [Path(root)]).look()


def opened_there(root: str, shown: str) -> tuple[str, list[str]]:
    gallery = Gallery(Lenses([str(run_folder())], subject=str(saved_model())), [Path(root)])
    gallery.look()
    name = gallery.open(shown)
    return name, [row["explanation"] for row in gallery.lenses.get(name).explain(TEXT)]


def published() -> list[tuple[str, str]]:
    return AutoLens.published()


def test_lenses_on_the_hub_are_found_by_their_tag_and_opened(online: tuple[Hub, HubClient], tmp_path: Path) -> None:
    server, client = online
    client(push, "me/in-the-gallery")
    repo = server.repos["model", "me/in-the-gallery"]
    tree = repo.commits[repo.heads["main"]]
    # Of others: a model without the tag, and one of the package's own that is no lens.
    for name, tags in (("me/no-lens", ["interpretability"]), ("me/a-model", ["consistency-lens", "interpretability"])):
        card = Blob(f"---\n{json.dumps({'tags': tags})}\n---\n# a model\n".encode(), large=False)
        server.repos["model", name] = type(repo)("model", name, False)
        server.repos["model", name].commit("main", {"README.md": card}, "by hand")
    there = dict(client(published))
    assert there["me/in-the-gallery"] == "text" and not {"me/no-lens", "me/a-model"} & there.keys()
    names, damage = client(found_there, str(tmp_path))
    assert "me/in-the-gallery · text · the Hub" in names and not damage
    asked = len(server.served)
    name, said = client(opened_there, str(tmp_path), "me/in-the-gallery · text · the Hub")
    assert name == "me/in-the-gallery" and said == [row["explanation"] for row in lens().explain(TEXT)]
    assert any("/resolve/" in path for _, path, _ in server.served[asked:]), "it is loaded when it is opened"
    assert "config.json" in tree
    server.trouble.append(Trouble("GET /api/models", 503))
    names, damage = client(found_there, str(tmp_path))
    assert names == [] and "the Hub says 503" in damage
