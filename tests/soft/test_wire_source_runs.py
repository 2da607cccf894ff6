"""A wire whose compressor started from another model, through what every wire goes through; the model is not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from extracting import saved_model
from short_runs import SHORT
from test_adding import third_model
from test_wire_runs import recipe_in
from tiny import tiny_model
from wire_runs import NAMES, batch_of, other_lm, rows_of, text_batch, wire_lens, wire_models, wire_passages

from consistency_lens import cli, view_of
from consistency_lens.activations.passages import Passages
from consistency_lens.auto import AutoLens
from consistency_lens.base.configuration import ONE_MODEL
from consistency_lens.base.saving.lens_card import TrainingRecord, write_lens_card
from consistency_lens.errors import BadInput
from consistency_lens.evaluation import HeldOut, evaluate
from consistency_lens.frozen import FrozenLM, FrozenModels
from consistency_lens.soft.arguments import LatentWireArguments
from consistency_lens.soft.modeling import LatentWire
from consistency_lens.soft.parts.adding import with_receiver
from consistency_lens.soft.report.wire_report import WireReport
from consistency_lens.soft.trainer import LatentWireTrainer

TEXT = "w3 w1 w4 w1 w5 w9 w2 w6"
# Nobody but the compressor's own tokenizer knows these words.
OWN = f"{TEXT} apart alone"


def other_wire(**settings: Any) -> LatentWire:
    lens = wire_lens(**{"ratio": 2.0, "compressor_model": other_lm(), **settings})
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(lens.compressor.out.weight, std=0.2, generator=generator)
    return lens


def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError(f"a model was loaded: {arguments}")

    monkeypatch.setattr(FrozenLM, "from_pretrained", refuse)


@pytest.mark.parametrize("settings", [{}, {"compressor_lora_rank": 2}, {"pooling": "learned", "slots": 3}])
def test_it_comes_back_bit_for_bit_without_that_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    lens = other_wire(**{**settings, "ratio": None} if "slots" in settings else settings)
    with torch.no_grad():
        for parameter in lens.compressor.lm.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)), alpha=0.01)
    lens.save_pretrained(tmp_path)
    nothing_is_loaded(monkeypatch)
    data, batch = lens.to_bytes(OWN), batch_of()
    assert data != lens.to_bytes(f"{TEXT} alone apart"), "it reads with its own tokenizer"
    for found in (
        LatentWire.from_pretrained(tmp_path),
        LatentWire.from_pretrained(tmp_path, subject=wire_models()),
        AutoLens.from_pretrained(tmp_path, subject=dict(wire_models())),
    ):
        assert isinstance(found, LatentWire) and found.config.compressor_origin == lens.config.compressor_origin
        assert found.to_bytes(OWN) == data
        assert torch.equal(found.compress(batch).vectors, lens.compress(batch).vectors)
        edits = zip(found.restore(lens.compress(batch), batch), lens.restore(lens.compress(batch), batch), strict=True)
        assert all(torch.equal(ours.tensor, theirs.tensor) for ours, theirs in edits)
        found.models = wire_models()
        for name in NAMES:
            assert found.answer(data, "w90", name, max_new_tokens=4) == lens.answer(
                data, "w90", name, max_new_tokens=4
            )


def test_a_batch_and_a_text_are_read_alike_and_padding_changes_nothing() -> None:
    lens = other_wire()
    batch = batch_of()
    code = lens.compress(batch)
    for row, text in enumerate(batch["passage"]):
        alone = lens.compress(text_batch(lens, text))
        torch.testing.assert_close(code.vectors[row][code.mask[row]], alone.vectors[0], atol=1e-3, rtol=1e-3)
        assert len(lens.to_bytes(text)) == lens.describe(code)[row]["bytes"]
    ids, mask = lens.read_of(batch)
    spoken = lens.tokenizer.batch_decode([row[kept.bool()] for row, kept in zip(ids, mask, strict=True)])  # type: ignore[union-attr]
    assert spoken == batch["passage"]


def push(name: str) -> str:
    """In the process of the client, as `pull`."""
    lens = other_wire()
    lens.push_to_hub(name)
    return lens.to_bytes(OWN).hex()


def pull(name: str) -> tuple[str, str]:
    alone, lens = LatentWire.from_pretrained(name), AutoLens.from_pretrained(name, subject=dict(wire_models()))
    assert isinstance(lens, LatentWire)
    return alone.to_bytes(OWN).hex(), lens.to_bytes(OWN).hex()


def test_it_goes_to_the_hub_and_comes_back(online: Any) -> None:
    server, client = online
    data = client(push, "me/wire-of-another")
    assert client(pull, "me/wire-of-another") == (data, data)
    repo = server.repos["model", "me/wire-of-another"]
    card = repo.commits[repo.heads["main"]]["README.md"].data.decode()
    assert "Its compressor holds layers of tiny-other (sha256:" in card


def arguments(folder: Path, **changes: Any) -> LatentWireArguments:
    return LatentWireArguments(**{"output_dir": str(folder), **SHORT, "max_steps": 4, **changes})


@pytest.mark.parametrize("rank", [None, 2])
def test_it_is_trained_and_goes_on_where_it_stopped(tmp_path: Path, rank: int | None) -> None:
    """By ids that lie there, or by text: the compressor reads the passage either way."""
    saves = {"save_strategy": "steps", "save_steps": 2}
    rows = Passages.from_dataset(Dataset.from_list(rows_of()), validation_fraction=0.2, test_fraction=0.2)
    found = []
    for folder, data, resumed in (("a", wire_passages(), None), ("b", rows, None), ("b", rows, "checkpoint-2")):
        lens = other_wire(compressor_lora_rank=rank)
        before = {name: p.detach().clone() for name, p in lens.named_parameters()}
        trainer = LatentWireTrainer(lens, arguments(tmp_path / folder, **saves), data, frozen=wire_models())
        trainer.train(str(tmp_path / folder / resumed) if resumed else None)
        found.append({name: p.detach().clone() for name, p in lens.named_parameters()})
        changed = {name for name, value in found[-1].items() if not torch.equal(value, before[name])}
        own = {name for name in changed if name.startswith("compressor.lm.")}
        assert own and {name.partition(".")[0] for name in changed} == {"compressor", "receivers"}
        assert all("lora" in name for name in own) is (rank is not None)
    for other in found[1:]:
        assert all(torch.equal(other[name], value) for name, value in found[0].items())


def test_a_passage_that_it_cannot_read_is_refused_before_a_step(tmp_path: Path) -> None:
    short = FrozenLM(tiny_model("gpt2", n_embd=48, n_positions=8), other_lm().tokenizer, model_id="tiny-short")
    said = r"^passage='w\d+ .*it has 9 tokens, and the compressor takes at most 8\. Make them of fewer"
    with pytest.raises(BadInput, match=said):
        LatentWireTrainer(
            other_wire(compressor_model=short), arguments(tmp_path), wire_passages(), frozen=wire_models()
        )


def test_a_receiver_is_added_without_that_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other_wire().save_pretrained(tmp_path)
    nothing_is_loaded(monkeypatch)
    lens = LatentWire.from_pretrained(tmp_path, subject=wire_models())
    more, data = with_receiver(lens, third_model()), lens.to_bytes(OWN)
    assert more.config.compressor_origin == lens.config.compressor_origin and more.config.own_tokenizer
    assert more.to_bytes(OWN) == data and more.config.names == [*NAMES, "third"]
    assert more.answer(data, "w90", "words", max_new_tokens=4) == lens.answer(data, "w90", "words", max_new_tokens=4)
    # The regression found words in common: the adapter is none that was drawn at random.
    drawn = with_receiver(wire_lens(start="byte", byte_width=48, d_z=48), third_model()).receiver("third")
    assert not torch.equal(more.receiver("third").first.weight, drawn.first.weight)
    models = FrozenModels([*wire_models().values(), third_model()])
    more.save_pretrained(tmp_path / "more")
    again = LatentWire.from_pretrained(tmp_path / "more", subject=models)
    assert again.answer(data, "w90", "third", max_new_tokens=4) == more.answer(data, "w90", "third", max_new_tokens=4)


def test_its_report_has_no_untrained_compressor(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_is_loaded(monkeypatch)
    held_out = HeldOut("test", batch_size=6, horizon=0)
    report = evaluate(
        other_wire(), wire_models(), wire_passages(), WireReport(0, oracle_rows=0), held_out, progress=False
    )
    numbers = report.parts["all"].numbers
    assert "untrained" not in numbers and {"lens", "text", "shuffled", "foreign"} <= numbers.keys()
    assert 1.5 < report.traits["tokens_per_vector"].value <= 2


def test_the_explorer_shows_its_own_words() -> None:
    shown = view_of(other_wire())
    rows = shown.rows("w1 w2 apart w4 w5 alone w7", shown.positions("w1 w2 apart w4 w5 alone w7"))
    assert [row["token"] for row in rows] == ["w1 w2", "apart w4", "w5 alone", "w7"]


def test_its_card_says_where_its_layers_come_from(tmp_path: Path) -> None:
    lens = other_wire()
    sizes = {name: sum(p.numel() for p in part.values()) for name, part in lens.parts().items()}
    write_lens_card(tmp_path, lens.config, TrainingRecord(name="a-wire", sizes=sizes))
    card, origin = (tmp_path / "README.md").read_text(), lens.config.part_origins["compressor"]
    assert f"trained parameters, begun with layers of tiny-other ({origin.weights})" in card
    assert (
        f"Its compressor holds layers of tiny-other ({origin.weights}): look at the terms of that model, too." in card
    )
    write_lens_card(tmp_path, wire_lens(ratio=2.0).config, TrainingRecord(name="a-wire", sizes=sizes))
    assert "begun with" not in (tmp_path / "README.md").read_text()


def test_a_folder_of_before_is_opened_as_it_was(tmp_path: Path) -> None:
    lens = wire_lens(ratio=2.0)
    lens.save_pretrained(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    del said["compressor_origin"]
    (tmp_path / "config.json").write_text(json.dumps(said))
    found = LatentWire.from_pretrained(tmp_path, subject=wire_models())
    assert found.to_bytes(TEXT) == lens.to_bytes(TEXT) and not found.config.own_tokenizer


def test_a_tokenizer_that_is_not_the_lens_s_is_refused(tmp_path: Path) -> None:
    other_wire().save_pretrained(tmp_path)
    changed = tmp_path / "tokenizer.json"
    whole = changed.read_text()
    for new in ({"w3": 4000}, {"w3": 5, "w5": 3}):  # a word that it lacks, and two that changed places
        said = json.loads(whole)
        said["model"]["vocab"] |= {word: said["model"]["vocab"].get(f"w{n}", n) for word, n in new.items()}
        changed.write_text(json.dumps(said))
        with pytest.raises(BadInput, match=r"^tokenizer='sha256:.*do not belong together"):
            LatentWire.from_pretrained(tmp_path, subject=wire_models())
    for damage in (lambda: changed.write_text("{"), changed.unlink):
        damage()
        for subject in (None, wire_models()):
            with pytest.raises(BadInput, match=r"^lens=.*reads with a tokenizer that none of its models has"):
                LatentWire.from_pretrained(tmp_path, subject=subject)


def test_a_whole_run_and_what_follows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other_lm().model.save_pretrained(other)
    other_lm().tokenizer.save_pretrained(other)
    recipe, run, wire = recipe_in(tmp_path), tmp_path / "run", tmp_path / "F.wire"
    words = ["--config", str(recipe), "--output_dir", str(run), "--report_rows", "4", "--max_steps", "2"]
    assert cli.main([*words, "--compressor_model", str(tmp_path / "ohter")]) == 2
    said = capsys.readouterr().err
    assert "compressor_model=" in said and "Name one of base, bytes, or the Hub id or the folder of another" in said
    assert not (tmp_path / "passages").exists() and not run.exists(), "nothing has begun"
    assert cli.main([*words, "--compressor_model", str(other)]) == 0, capsys.readouterr().err
    other.rename(tmp_path / "gone")
    card = (run / "lens/README.md").read_text()
    assert (
        "begun with layers of other (sha256:" in card and str(tmp_path) not in (run / "lens/config.json").read_text()
    )
    (tmp_path / "text.txt").write_text(OWN)
    assert cli.main(["compress", str(tmp_path / "text.txt"), "--lens", str(run), "-o", str(wire)]) == 0
    models = ["--model_name_or_path", str(saved_model()), "--other_models", f"bytes={tmp_path / 'bytes'}"]
    use = ["--lens", str(run), "--receiver", ONE_MODEL, *models, "--use_cpu", "--max_new_tokens", "2"]
    assert cli.main(["answer", str(wire), "w90", *use]) == 0, capsys.readouterr().err
