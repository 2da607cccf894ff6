"""`run_lens.py publish`, against a Hub on loopback: what goes where, what is refused."""

from __future__ import annotations

import json
import re
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from extracting import saved_model
from lens_runs import stirred, tiny_lens

from consistency_lens import AutoLens, FrozenLM
from consistency_lens.cli.commands import publish, publish_space

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
from hub_client import HubClient, command
from hub_server import READ_TOKEN, Blob, Hub, Trouble

TEXT = "w1 w2 w3 w4"
LOADED = 'AutoLens.from_pretrained("tiny-run")'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that is finished: a lens with card and report, and much that is nobody's business."""
    folder = tmp_path_factory.mktemp("runs") / "tiny-run"
    lens = stirred(tiny_lens(FrozenLM.from_pretrained(saved_model()), trainable="lora"))
    lens.save_pretrained(folder / "lens")
    (folder / "lens/report").mkdir()
    for name, content in {
        "lens/README.md": f"# tiny\n\nBy hand: {LOADED}\n\n<!-- generated: use -->\n{LOADED}\n<!-- /generated -->\n",
        "lens/training.json": json.dumps({"name": "tiny-run", "cost": {}, "counts": {}}),
        "lens/report/report.json": "{}",
        "lens/report/report.md": "# Report",
        "lens/report/kl.png": "a plot",
        "samples.parquet": "PAR1",
        "history.json": "[]",
        "run.json": "{}",
        "recipe.yaml": "{}",
        "log.txt": "what was printed",
        "lens/notes.txt": "my own",
        "lens/secrets.json": "{}",
        "lens/report/rows.json": "{}",
        "lens/ema.safetensors": "an average",
        "lens/decoder/notes.md": "my own",
        "lens/optimizer.pt": "pickled",
        "lens/pytorch_model.bin": "pickled",
    }.items():
        (folder / name).write_text(content)
    return folder


def tree(server: Hub, name: str, kind: str = "model", branch: str = "main") -> dict[str, Blob]:
    repo = server.repos[kind, name]
    return repo.commits[repo.heads[branch]]


def explained(name: str, subject: str) -> Any:
    return AutoLens.from_pretrained(name, subject=subject).explain(TEXT)


def billed(said: str) -> dict[tuple[str, str], int]:
    """Kind and name of each repository -> how many files are announced for it."""
    found = re.findall(r"(\d+) files, .*, to the (?:private )?(\w+) (\S+)", said.partition("lens at")[0])
    return {(kind, name): int(count) for count, kind, name in found}


PUBLISHED = {"README.md", "config.json", "model.safetensors", "samples.parquet", "history.json", "training.json"}
PUBLISHED |= {
    f"{part}/adapter_{what}" for part in ("decoder", "encoder") for what in ("config.json", "model.safetensors")
}
PUBLISHED |= {"report/report.json", "report/report.md", "report/kl.png", "tokenizer.json", "tokenizer_config.json"}


@pytest.mark.parametrize("place", ["", "lens"])
def test_a_run_is_published_whole_and_loads_from_there(online: tuple[Hub, HubClient], run: Path, place: str) -> None:
    server, client = online
    name = f"me/published{place}"
    code, said = client(command, ["publish", "--lens", str(run / place), "--repo_id", name, "--use_cpu"])
    assert code == 0, said
    assert set(tree(server, name)) == PUBLISHED
    card, here = tree(server, name)["README.md"].data.decode(), (run / "lens/README.md").read_text()
    assert f'generated: use -->\nAutoLens.from_pretrained("{name}")' in card and f"By hand: {LOADED}" in card
    assert here.count(LOADED) == 2, "the card of the run is as it was"
    total, bill = re.search(r"(\d+) files, .*, to the model (\S+)", said), said.partition("lens at")[0]
    assert total and int(total[1]) == len(PUBLISHED) and total[2] == name
    assert all(file in bill for file in PUBLISHED), "said before it is sent"
    here = AutoLens.from_pretrained(run, subject=str(saved_model())).explain(TEXT)
    assert client(explained, name, str(saved_model())) == here


def test_what_an_earlier_lens_left_there_goes(online: tuple[Hub, HubClient], run: Path, tmp_path: Path) -> None:
    server, client = online
    bare = shutil.copytree(run / "lens", tmp_path / "bare")
    shutil.rmtree(bare / "report")
    (bare / "training.json").unlink()
    for place in (run, bare):
        code, said = client(command, ["publish", "--lens", str(place), "--repo_id", "me/twice", "--use_cpu"])
        assert code == 0, said
        if place == run:
            repo = server.repos["model", "me/twice"]
            theirs = dict.fromkeys(["mine.txt", "last-checkpoint/training.json"], Blob(b"{}", large=False))
            repo.commit("main", repo.commits[repo.heads["main"]] | theirs, "by hand")
    measured = {name for name in PUBLISHED if name.startswith("report/")}
    measured |= {"samples.parquet", "history.json", "training.json"}
    assert set(tree(server, "me/twice")) == PUBLISHED - measured | set(theirs)


def edit_on_the_hub(server: Hub, name: str, before: str, words: str, kind: str = "model") -> None:
    """As a person does in the browser: words of their own before a part of the card."""
    repo = server.repos[kind, name]
    card = tree(server, name, kind)["README.md"].data.decode()
    assert before in card
    edited = {"README.md": Blob(card.replace(before, f"{words}\n\n{before}", 1).encode(), large=False)}
    repo.commit("main", repo.commits[repo.heads["main"]] | edited, "by hand")


def test_what_was_written_on_the_hub_outlives_the_next_upload(
    online: tuple[Hub, HubClient], run: Path, tmp_path: Path
) -> None:
    server, client = online
    words = ["publish", "--lens", str(run), "--repo_id", "me/edited", "--use_cpu"]
    assert client(command, words)[0] == 0
    edit_on_the_hub(server, "me/edited", "<!-- generated: use -->", "Written on the Hub.")
    mine = shutil.copytree(run, tmp_path / "run") / "lens/README.md"
    mine.write_text(mine.read_text().replace("By hand: ", "Changed here: ") + "\nNew here.\n")
    code, said = client(command, ["publish", "--lens", str(mine.parents[1]), *words[3:]])
    assert code == 0, said
    card = tree(server, "me/edited")["README.md"].data.decode()
    assert f"By hand: {LOADED}\n\nWritten on the Hub.\n\n<!-- generated: use -->" in card and "New here." in card
    assert 'AutoLens.from_pretrained("me/edited")' in card and "Changed here" not in card, "theirs stay"
    assert "Written on the Hub" not in mine.read_text()


def test_no_weights_of_another_kind_of_lens_stay(online: tuple[Hub, HubClient], tmp_path: Path) -> None:
    server, client = online
    subject = FrozenLM.from_pretrained(saved_model())
    for kind in ("full", "projections"):
        tiny_lens(subject, trainable=kind).save_pretrained(tmp_path / kind)
        code, said = client(command, ["publish", "--lens", str(tmp_path / kind), "--repo_id", "me/kinds", "--use_cpu"])
        assert code == 0, said
    assert not any(path.startswith(("decoder/", "encoder/")) for path in tree(server, "me/kinds"))


def test_the_bill_comes_before_the_first_request(online: tuple[Hub, HubClient], run: Path) -> None:
    server, client = online
    server.trouble.append(Trouble("POST /api/repos/create", 503, "maintenance"))
    code, said = client(command, ["publish", "--lens", str(run), "--repo_id", "me/down", "--use_cpu"])
    assert code == 2 and said.index("decoder/adapter_model.safetensors") < said.index("error: repo_id='me/down'")
    assert ("model", "me/down") not in server.repos


def test_privately_and_to_a_branch(online: tuple[Hub, HubClient], run: Path) -> None:
    server, client = online
    words = ["publish", "--lens", str(run), "--repo_id", "me/draft", "--private", "--revision", "v2", "--use_cpu"]
    code, said = client(command, words)
    assert code == 0 and "to the private model me/draft" in said
    assert server.repos["model", "me/draft"].private
    assert set(tree(server, "me/draft", branch="v2")) == PUBLISHED and not tree(server, "me/draft")


def test_the_page_goes_along_and_knows_its_lens(online: tuple[Hub, HubClient], run: Path) -> None:
    pytest.importorskip("gradio", reason="the Space needs the extra 'space'")
    server, client = online
    code, said = client(command, ["publish", "--lens", str(run), "--repo_id", "me/shown", "--space", "--use_cpu"])
    assert code == 0, said
    page = tree(server, "me/shown", "space")
    assert {"app.py", "README.md", "requirements.txt", "lens.txt", "consistency_lens/hub.py"} <= set(page)
    assert page["lens.txt"].data == b"me/shown\n" and not any("__pycache__" in path for path in page)
    front = yaml.safe_load(page["README.md"].data.decode().split("---\n")[1])
    pins = dict(line.split("==") for line in page["requirements.txt"].data.decode().splitlines())
    assert front["sdk"] == "gradio" and front["python_version"] == "3.11" and front["models"] == ["me/shown"]
    assert front["sdk_version"] == pins["gradio"] == version("gradio") and front["title"] == "Consistency Lens"
    assert "torch" in pins and "consistency-lens" not in pins and "pytest" not in pins and "deepspeed" not in pins
    assert "to the space me/shown" in said and set(tree(server, "me/shown")) == PUBLISHED
    edit_on_the_hub(server, "me/shown", "| tab |", "Mine.", "space")
    code, said = client(command, ["publish", "--lens", str(run), "--repo_id", "me/shown", "--space", "--use_cpu"])
    again = tree(server, "me/shown", "space")
    assert code == 0 and b"Mine.\n\n| tab |" in again["README.md"].data and set(again) == set(page)


def test_a_page_is_its_sources_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, mine = ["app.py", "README.md", "views/read.py"], [".env", "lens.txt", "rows.parquet", ".git/x.py"]
    for name in [*theirs, *mine, "views/__pycache__/read.pyc"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    monkeypatch.setattr(publish_space, "SPACE", tmp_path)
    found = set(publish_space.page_files())
    assert {name for name in found if not name.startswith("consistency_lens/")} == set(theirs)
    assert {"consistency_lens/recipes/demo.yaml", "consistency_lens/model_card_template.md"} <= found
    assert not any("__pycache__" in name for name in found)


SUBJECT = "subject-0123456789abcdef"


def make_own_subject(folder: str) -> None:
    """A lens whose subject the package is said to have trained, in the cache of the client's machine."""
    from consistency_lens.demo.subject import folder_named

    shutil.copytree(saved_model(), folder_named(SUBJECT))
    stirred(tiny_lens(FrozenLM.from_pretrained(folder_named(SUBJECT)))).save_pretrained(folder)


def take_subject_away() -> None:
    from consistency_lens.demo.subject import folder_named

    shutil.rmtree(folder_named(SUBJECT))


def explained_alone(name: str) -> Any:
    lens = AutoLens.from_pretrained(name)
    assert lens.subject is not None
    return lens.subject.model_id, lens.explain(TEXT)


def test_a_subject_of_our_own_is_published_too_and_found_on_another_machine(
    online: tuple[Hub, HubClient], tmp_path: Path
) -> None:
    server, client = online
    client(make_own_subject, str(tmp_path / "lens"))
    here = AutoLens.from_pretrained(tmp_path / "lens", subject=str(saved_model())).explain(TEXT)
    words = ["publish", "--lens", str(tmp_path / "lens"), "--repo_id", "me/of-our-own", "--use_cpu", "--space"]
    code, said = client(command, words)
    assert code == 0, said
    there = tree(server, f"me/{SUBJECT}")
    assert billed(said) == {
        ("model", "me/of-our-own"): len(tree(server, "me/of-our-own")),
        ("model", f"me/{SUBJECT}"): len(there),
        ("space", "me/of-our-own"): len(tree(server, "me/of-our-own", "space")),
    }
    bill = said.partition("lens at")[0]
    assert all(name in bill for name in ("lens.txt", "requirements.txt", "dist-info/METADATA", *there))
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(there)
    commit = server.repos["model", f"me/{SUBJECT}"].heads["main"]
    config = json.loads(tree(server, "me/of-our-own")["config.json"].data)
    assert config["provenance"]["published"] == f"me/{SUBJECT}@{commit}"
    assert "published" not in json.loads((tmp_path / "lens/config.json").read_text())["provenance"]
    assert f"- me/{SUBJECT}\n".encode() in tree(server, "me/of-our-own", "space")["README.md"].data
    client(take_subject_away)
    assert client(explained_alone, "me/of-our-own") == (SUBJECT, here)
    code, said = client(command, words)
    assert code == 0 and "Its model is not published with it" in " ".join(said.split())


def test_a_lens_in_the_cache_is_published_through_its_links(run: Path, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    snapshot = shutil.copytree(run / "lens", tmp_path / "snapshots/0123abc")
    weights = snapshot / "encoder/adapter_model.safetensors"
    weights.rename(tmp_path / "blobs/beef")
    weights.symlink_to("../../../blobs/beef")
    assert set(publish.parcel(str(snapshot))) == PUBLISHED - {"samples.parquet", "history.json"}


REFUSALS: list[tuple[list[str], str]] = [
    (["--lens", "{run}"], "repo_id=None. Say where to"),
    (["--repo_id", "me/x"], "lens=None. Name a run folder"),
    (["--lens", "{run}/report", "--repo_id", "me/x"], "there is no such folder"),
    (["--lens", "{run}/lens/report", "--repo_id", "me/x"], "Give the folder of a run that has finished training"),
    (["--lens", "{model}", "--repo_id", "me/x"], "its config.json names no frozen model"),
    (["--lens", "{cut}", "--repo_id", "me/x"], "encoder/adapter_model.safetensors cannot be read"),
    (["--lens", "{linked}", "--repo_id", "me/x"], "README.md is a link that leads out of it. Put the file itself"),
    (["--lens", "{run}", "--repo_id", "me/x", "--space", "--revision", "v2"], "Leave out --space or --revision."),
    (["--lens", "{run}", "--repo_id", "you/x"], "Use a token with write access to you"),
    (["--lens", "{run}", "--repo_id", "me/x", "--hub_token", READ_TOKEN], "Use a token with write access to me"),
    (["--lens", "{run}", "--repo_id", "me/x", "--hub_token", "hf_wrong"], "The token is not valid (any more)"),
]


@pytest.mark.parametrize(("words", "said"), REFUSALS)
def test_what_cannot_be_published_is_said_before(
    online: tuple[Hub, HubClient], run: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    server, client = online
    cut = tmp_path / "cut"
    shutil.copytree(run / "lens", cut)
    (cut / "encoder/adapter_model.safetensors").write_bytes(b"half")
    linked = shutil.copytree(run / "lens", tmp_path / "linked")
    (tmp_path / "private").write_text("private")
    (linked / "README.md").unlink()
    (linked / "README.md").symlink_to(tmp_path / "private")
    places = {"run": run, "model": saved_model(), "cut": cut, "linked": linked}
    code, printed = client(command, ["publish", *(word.format(**places) for word in words), "--use_cpu"])
    assert code == 2 and said in printed and "Traceback" not in printed
    assert ("model", "me/x") not in server.repos and "hf_wrong" not in printed and READ_TOKEN not in printed


def without_token(words: list[str]) -> Any:
    return command(words, None, HF_TOKEN=None)


def test_without_a_token_nothing_is_said_to_anybody(online: tuple[Hub, HubClient], run: Path) -> None:
    server, client = online
    began = len(server.served)
    code, said = client(without_token, ["publish", "--lens", str(run), "--repo_id", "me/y", "--use_cpu"])
    assert code == 2 and "the Hub takes nothing without a token. Log in with `hf auth login`" in said
    assert len(server.served) == began
