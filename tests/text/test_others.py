"""Natural Language Autoencoders of others: read as they define themselves, measured as any lens, refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from extracting import extract_to, random_texts
from natural_language import LAYER, READING, chat_tokenizer, of_easy, of_the_authors, read, said, sidecar, subject
from safetensors.torch import load_file, save_file
from tiny import shared_lm
from torch.nn import functional as F

from consistency_lens import AutoLens, BadInput, FrozenLM, Report, evaluate_lens
from consistency_lens.auto import family_at, is_ours
from consistency_lens.cli import main
from consistency_lens.cli.parsing.request import parse
from consistency_lens.text.others.autoencoder import NaturalLanguageAutoencoder, between
from consistency_lens.text.others.reading import find
from consistency_lens.text.others.weights import ADAPTERS
from consistency_lens.text.parts.generation import Noise

LENGTH, SITE = 6, f"resid_post.{LAYER}"
Made = tuple[Path, tuple[Any, Any, torch.Tensor]]


@pytest.fixture(scope="module")
def authors(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("authors")
    return folder, of_the_authors(folder)


@pytest.fixture(scope="module")
def easy(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("easy")
    return folder, of_easy(folder)


def opened(place: Path, code_length: int = LENGTH) -> NaturalLanguageAutoencoder:
    """With short texts; what else is as `AutoLens` opens it."""
    found = find(str(place), None, None, whole=True)
    assert found is not None and found.model_id == "tiny-chat"
    lens = found.open(subject(), code_length=code_length)
    assert isinstance(lens, NaturalLanguageAutoencoder)
    return lens


@pytest.mark.parametrize("kind", ["authors", "easy"])
def test_it_writes_and_reads_as_it_defines_itself(kind: str, request: pytest.FixtureRequest) -> None:
    folder, (writes, reads, head) = request.getfixturevalue(kind)
    lens, adds = opened(folder / "x-av" if kind == "authors" else folder), kind == "easy"
    vectors = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)) * 3
    code = lens.compress({"activations": {SITE: vectors}})
    texts = [row["explanation"] for row in lens.describe(code)]
    never = lens.config.never_ids or []
    expected = [chat_tokenizer().decode(said(writes, each, adds, LENGTH, never)) for each in vectors]
    assert texts == expected and len(set(texts)) > 1
    lens.scale_to(3.0)
    (edit,) = lens.restore(code, {})
    by_definition = torch.stack([3.0 * read(reads, head, text, begun=not adds) for text in texts])
    assert str(edit.site) == SITE
    torch.testing.assert_close(edit.value, by_definition, rtol=1e-4, atol=1e-5)


def test_either_part_names_the_pair(authors: Made, easy: Made, tmp_path: Path) -> None:
    both = tmp_path / "both"
    for name in ("x-av", "x-ar"):
        shutil.copytree(authors[0] / name, both / name)
    one, two = opened(authors[0] / "x-ar"), opened(both)
    vector = {"activations": {SITE: torch.ones(1, 32)}}
    assert one.describe(one.compress(vector)) == two.describe(two.compress(vector))
    lens = AutoLens.from_pretrained(authors[0] / "x-av", subject())
    assert isinstance(lens, NaturalLanguageAutoencoder) and lens.config.code_length == 200
    assert [family_at(str(place)) for place in (authors[0] / "x-av", easy[0])] == ["text", "text"]
    assert not is_ours(str(authors[0] / "x-av"))
    assert parse(["evaluate", "--lens", str(easy[0]), "--activations", "x"]).options.family == "text"


@torch.no_grad()
def test_what_stands_between_the_tags_is_the_explanation(authors: Made) -> None:
    """A verbaliser whose next token is a function of the last one."""
    lens = opened(authors[0] / "x-av", code_length=8)
    lm: Any = lens.decoder.lm
    ids = chat_tokenizer().get_vocab()
    for name, parameter in lm.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
            parameter.zero_()
    chain = ["assistant", "<explanation>", "w5", "w6", "</explanation>", "w7", "w8"]
    for last, following in pairwise(chain):
        lm.lm_head.weight[ids[following]] = 10 * F.normalize(lm.model.embed_tokens.weight[ids[last]], dim=0)
    code = lens.decoder.write(torch.randn(2, 32), Noise(None))
    assert [row["explanation"] for row in lens.describe(code)] == ["w5 w6"] * 2
    assert code.lengths.tolist() == [2, 2]
    assert torch.equal(lens.decoder.score(torch.randn(2, 32), code).argmax(-1)[:, :2], code.ids[:, :2])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<explanation>\n a b \n</explanation> c", "a b"),
        ("x <explanation> cut off", "cut off"),
        ("no tags", "no tags"),
        ("<explanation></explanation>", ""),
    ],
)
def test_tags_may_be_missing(text: str, found: str) -> None:
    assert between(text) == found


def test_it_gets_the_whole_report(easy: Made, tmp_path: Path) -> None:
    rows = extract_to(
        tmp_path / "rows",
        random_texts(24, shortest=8, longest=16),
        subject(),
        sites=[SITE],
        continuation_length=2,
        test_fraction=0.5,
    )
    lens = opened(easy[0])
    report = evaluate_lens(lens, subject(), rows, batch_size=4, max_rows=8, horizon=2, progress=False)
    norm = rows.norm(SITE)
    assert lens.encoder.norm == norm and report.lens["family"] == "consistency_lens"
    assert {"shuffled_activation", "context_tail"} <= set(report.groups["text"]) and report.groups["tampered"]
    lengths = rows.splits["test"].with_format("torch")[:][SITE].norm(dim=-1)
    assert norm / float(lengths.max()) < report.number("norm_ratio").value < norm / float(lengths.min())
    with pytest.raises(BadInput, match="neither trained nor saved"):
        lens.save_pretrained(tmp_path / "no")
    with pytest.raises(BadInput, match="neither trained nor saved"):
        lens(torch.randn(2, 32), estimator="parallel")


@pytest.mark.slow  # texts of 200 tokens, as others write them
def test_the_command_line_measures_it_and_leaves_its_folder_alone(
    authors: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    theirs = {path: path.stat().st_mtime_ns for path in authors[0].rglob("*")}
    subject().model.save_pretrained("chat")
    chat_tokenizer().save_pretrained("chat")
    frozen, texts = FrozenLM.from_pretrained("chat"), random_texts(12, shortest=8, longest=16)
    extract_to(Path("rows"), texts, frozen, sites=[SITE], continuation_length=2, test_fraction=0.5)
    words = ["evaluate", "--lens", str(authors[0] / "x-av"), "--activations", "rows", "--model_name_or_path", "chat"]
    assert main([*words, "--report_rows", "4", "--report_batch_size", "4", "--use_cpu"]) == 0, capsys.readouterr().err
    (report,) = Path("outputs").glob("*/report/report.json")
    assert Report.load(report.parent).lens["sites"] == [SITE]
    assert theirs == {path: path.stat().st_mtime_ns for path in authors[0].rglob("*")}


def changed(file: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Tensors of a file, otherwise."""

    def act(folder: Path) -> None:
        tensors = load_file(folder / file)
        change(tensors)
        save_file(tensors, folder / file)

    return act


def says(name: str = "x-av", **changes: Any) -> Callable[[Path], None]:
    return lambda folder: sidecar(folder / name, **changes)


TOKENS = {"injection_char": "㈎", "injection_token_id": 95, "injection_left_neighbor_id": 4}
TOKENS |= {"injection_right_neighbor_id": 4}
HEAD, READER = "x-ar/value_head.safetensors", "x-ar/model.safetensors"
REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no reconstructor": (lambda folder: shutil.rmtree(folder / "x-ar"), "it has no reconstructor"),
    "two verbalisers": (lambda folder: shutil.copytree(folder / "x-av", folder / "x-av" / "y"), "there are 2"),
    "a layer of each": (says(extraction_layer_index=1), r"the layers \[1, 2\]"),
    "another size": (says(d_model=64), "vectors of size 64"),
    "a hole too few": (says(prompt_templates={"av": "explain here", "ar": READING}), "has to stand in it once"),
    "tokens that are none": (says(tokens={"injection_char": "㈎"}), "tokens.*injection_token_id"),
    "another character": (says(tokens=TOKENS | {"injection_char": "w3"}), "one token 95"),
    "other neighbours": (says(tokens=TOKENS), "were trained with"),
    "a scale below 0": (says(extraction={"injection_scale": -1.0}), "injection_scale"),
    "a class of its own": (lambda f: (f / "x-av/nla_meta.yaml").write_text("!!python/object:os.system {}"), "damaged"),
    "a head of another size": (changed(HEAD, lambda t: t.update(weight=torch.ones(16, 32))), "its shape is"),
    "a head that is no number": (changed(HEAD, lambda t: t["weight"].fill_(torch.nan)), "not finite"),
    "a weight that lacks": (
        changed(READER, lambda t: t.pop("model.layers.2.mlp.up_proj.weight")),
        "lack model.layers.2",
    ),
    "a weight too many": (
        changed(READER, lambda t: t.update({"model.layers.3.mlp.x": torch.ones(1)})),
        "has that name",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name(case: str, authors: Made, tmp_path: Path) -> None:
    folder = tmp_path / "spoiled"
    shutil.copytree(authors[0], folder)
    act, why = REFUSED[case]
    act(folder)
    with pytest.raises(BadInput, match=why) as caught:
        AutoLens.from_pretrained(folder / "x-av", subject())
    assert caught.value.field in ("lens", "subject")


def one_of(tensors: dict[str, Any], kind: str) -> str:
    return next(name for name in tensors if kind in name)


IN_READER = f"critic/{ADAPTERS}"
ADAPTED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another rank": (changed(IN_READER, lambda t: t.update({one_of(t, "lora_A"): torch.ones(2, 32)})), "its shape is"),
    "the last norm kept": (
        lambda f: rewrite(f / "critic/ar_meta.json", final_norm_stripped=False),
        "keeps the last norm",
    ),
    "what peft can do besides": (lambda f: rewrite(f / "iter_4/adapter_config.json", use_dora=True), "use_dora"),
    "no half of a pair": (changed(IN_READER, lambda t: t.pop(one_of(t, "lora_B"))), "it is not there"),
}


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("case", ADAPTED)
def test_adapters_that_do_not_fit_are_refused_by_name(case: str, easy: Made, tmp_path: Path) -> None:
    folder = tmp_path / "spoiled"
    shutil.copytree(easy[0], folder)
    act, why = ADAPTED[case]
    act(folder)
    with pytest.raises(BadInput, match=why):
        AutoLens.from_pretrained(folder, subject())


def test_another_model_and_one_without_a_chat_template_are_refused(easy: Made) -> None:
    with pytest.raises(BadInput, match="one token"):
        AutoLens.from_pretrained(easy[0], shared_lm("llama"))
    with pytest.raises(BadInput, match=r"^dtype='bfloat16': the model is loaded already"):
        AutoLens.from_pretrained(easy[0], subject(), dtype="bfloat16")
    with pytest.raises(BadInput) as caught:  # its own, which is nowhere
        AutoLens.from_pretrained(easy[0])
    assert caught.value.field in ("subject", "model_name_or_path")


def on_the_hub(place: str) -> tuple[str, list[int]]:
    """Its family, and what it says of one vector."""
    found = find(place, None, None, whole=True)
    assert found is not None and find("me/nothing-here/x", None, None, whole=False) is None
    lens: Any = found.open(subject(), code_length=LENGTH)
    return family_at(place), lens.compress({"activations": {SITE: torch.ones(1, 32)}}).ids.tolist()


def test_a_published_pair_is_found_under_either_name(authors: Made, online: Any) -> None:
    """Of a repository that is none, weights are not fetched."""
    from hub_server import Blob, Repo

    server, client = online
    for name in ("x-av", "x-ar"):
        tree = {path.name: Blob(path.read_bytes(), large=False) for path in (authors[0] / name).iterdir()}
        server.repos["model", f"me/{name}"] = Repo("model", f"me/{name}", private=False)
        server.repos["model", f"me/{name}"].commit("main", tree, "as they are published")
    tree = {name: blob for name, blob in tree.items() if name != "nla_meta.yaml"}
    server.repos["model", "me/plain"] = Repo("model", "me/plain", private=False)
    server.repos["model", "me/plain"].commit("main", tree, "another thing")
    here = opened(authors[0] / "x-av").compress({"activations": {SITE: torch.ones(1, 32)}}).ids.tolist()
    assert client(on_the_hub, "me/x-av") == client(on_the_hub, "me/x-ar") == ("text", here)
    assert client(find, "me/plain", None, None, True) is None
    assert not list((client.home / "hub/models--me--plain").rglob("*.safetensors"))
