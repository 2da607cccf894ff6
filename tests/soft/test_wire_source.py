"""A compressor that starts from a language model which is none of the receivers: its start, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from extracting import saved_model
from tiny import tiny_model
from wire_runs import NAMES, batch_of, other_lm, turned_tokenizer, wire_lens, wire_models

from consistency_lens.errors import BadInput
from consistency_lens.frozen import FrozenLM, FrozenModels
from consistency_lens.soft.configuration import LatentWireConfig
from consistency_lens.soft.modeling import LatentWire
from consistency_lens.soft.options import WireOptions
from consistency_lens.soft.parts.receiver import RIDGE, embedding_table
from consistency_lens.soft.parts.source import require_findable, require_words, source_of
from consistency_lens.soft.report.answering import Answering


def test_every_receiver_reads_it_before_any_training() -> None:
    """At one token per vector, through a regression between the embeddings of the words that both have."""
    lens, batch = wire_lens(compressor_model=other_lm(), calibrate=False), batch_of()
    code = lens.compress(batch)
    lengths = [len(text.split()) for text in batch["passage"]]
    assert code.counts == lengths and code.vectors.shape[-1] == 48
    for name, model in wire_models().items():
        compared = Answering.among(model, batch["tokens"][name])
        found, none = (compared.measure(edits)["kl"].mean() for edits in (lens.soft_tokens(code, batch, name), []))
        assert found < 0.2 * none, name


@pytest.mark.parametrize("d_z", [None, 20, 60])
def test_the_start_is_a_ridge_regression_word_by_word(d_z: int | None) -> None:
    """Against a slow twin: each word is compressed alone, and the normal equations are written out."""
    lens, other = wire_lens(compressor_model=other_lm(), d_z=d_z), other_lm()
    own = other.tokenizer.get_vocab()
    for name, model in wire_models().items():
        theirs, table = model.tokenizer.get_vocab(), embedding_table(model).double().numpy()
        words = [word for word in own if word in theirs and word.startswith("w")]
        assert len(words) == 92
        x, y = [], []
        for word in words:
            ids = torch.tensor([[own[word]]])
            with torch.no_grad():
                x.append(lens.compressor(ids, torch.ones_like(ids))[0][0, 0].double().numpy())
            y.append(table[theirs[word]] / np.sqrt((table**2).mean()))
        before, after = np.mean(x, 0), np.mean(y, 0)
        gram = sum(np.outer(a - before, a - before) for a in x)
        gram += RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
        weight = np.linalg.solve(gram, sum(np.outer(a - before, b - after) for a, b in zip(x, y, strict=True))).T
        receiver = lens.receiver(name)
        np.testing.assert_allclose(receiver.first.weight.detach().numpy(), weight, atol=2e-4)
        np.testing.assert_allclose(receiver.first.bias.detach().numpy(), after - weight @ before, atol=2e-4)


def test_the_compressor_is_a_copy_of_its_first_layers() -> None:
    lens, other = wire_lens(compressor_model=other_lm(), layers=2), other_lm()
    found, known = lens.compressor.lm, other.model.transformer
    assert len(found.h) == 2 and torch.equal(found.wte.weight, known.wte.weight)
    assert torch.equal(found.h[1].mlp.c_fc.weight, known.h[1].mlp.c_fc.weight)
    assert found.wte.weight.requires_grad and not known.wte.weight.requires_grad
    assert lens.tokenizer is other.tokenizer and lens.config.own_tokenizer and list(lens.models or ()) == list(NAMES)


def test_what_it_started_from_is_recorded() -> None:
    config = wire_lens(compressor_model=other_lm()).config
    assert config.compressor_model is None and config.names == list(NAMES)
    assert config.compressor_origin == other_lm().provenance("embed").to_dict()
    assert config.part_origins["compressor"].model_id == "tiny-other"
    assert list(config.origins) == list(NAMES), "whoever opens the lens loads these alone"
    assert not wire_lens().config.own_tokenizer and wire_lens().config.part_origins == {}


def test_a_receiver_is_known_however_it_is_named(tmp_path: Path) -> None:
    models = wire_models()
    for given in (None, "words", models["words"], copy.deepcopy(models["words"])):
        assert source_of(given, models) is models["words"]
    assert source_of("turned", models) is models["turned"] and source_of(other_lm(), models) is other_lm()
    again = FrozenModels([FrozenLM.from_pretrained(saved_model())])
    lens = LatentWire.from_models(again, ratio=2.0, compressor_model=saved_model())
    assert lens.config.compressor_model == "base" and lens.config.compressor_origin is None
    # Other weights are another model, and so is another tokenizer.
    other = FrozenLM(tiny_model("llama", initializer_range=0.1), models["words"].tokenizer)
    assert source_of(other, models) is other
    retold = FrozenLM(copy.deepcopy(models["words"].model), turned_tokenizer())
    assert source_of(retold, models) is retold


def test_a_folder_will_do(tmp_path: Path) -> None:
    other_lm().model.save_pretrained(tmp_path)
    other_lm().tokenizer.save_pretrained(tmp_path)
    found = wire_lens(compressor_model=str(tmp_path))
    for name, parameter in wire_lens(compressor_model=other_lm()).named_parameters():
        assert torch.equal(found.get_parameter(name), parameter), name
    assert found.config.part_origins["compressor"].model_id == tmp_path.name, "a path of this machine says nothing"


def without(**changes: Any) -> FrozenLM:
    """The other model without something."""
    lm = copy.deepcopy(other_lm())
    for name, value in changes.items():
        setattr(lm.tokenizer if name == "eos_token" else lm, name, value)
    return lm


def test_a_model_that_cannot_begin_a_compressor_is_refused() -> None:
    lm = FrozenLM(tiny_model("gpt2", n_embd=48), other_lm().tokenizer, model_id="tiny-odd")
    lm.model.set_input_embeddings(torch.nn.Embedding(96, 24))
    said = "compressor_model='tiny-odd': its embeddings have 24 coordinates, its blocks 48. Start from another model"
    with pytest.raises(BadInput, match=said):
        wire_lens(compressor_model=lm)
    lm.model.set_input_embeddings(torch.nn.Linear(96, 48))
    with pytest.raises(BadInput, match="compressor_model='tiny-odd': it has no table of embeddings"):
        require_words(lm)
    with pytest.raises(BadInput, match=r"it has no tokenizer. Give the model with its tokenizer"):
        wire_lens(compressor_model=without(tokenizer=None))
    with pytest.raises(BadInput, match=r"its tokenizer has no EOS token. Set the tokenizer's eos_token"):
        wire_lens(compressor_model=without(eos_token=None))
    lm = without()
    lm.config.model_type = "tiny_own"
    with pytest.raises(BadInput, match="a lens runs no code of others, and transformers knows no tiny_own"):
        wire_lens(compressor_model=lm)
    with pytest.raises(BadInput, match="start='lm': packed weights cannot be trained"):
        wire_lens(compressor_model=without(quantization="8bit"))
    with pytest.raises(BadInput, match=r"layers=9. Use 1 to 4, the layers of tiny-other"):
        wire_lens(compressor_model=other_lm(), layers=9)


def test_a_name_of_nothing_is_refused(tmp_path: Path) -> None:
    fix = "Name one of words, turned, or the Hub id or the folder of another language model"
    for name in ("wrods", str(tmp_path / "none"), "nobody/nothing"):
        with pytest.raises(BadInput, match=f"^compressor_model='{name}'.*none of the receivers") as error:
            wire_lens(compressor_model=name)
        assert fix in str(error.value)
        with pytest.raises(BadInput, match=f"^compressor_model='{name}'.*none of the receivers"):
            require_findable(name, list(NAMES))
    with pytest.raises(BadInput, match=rf"^compressor_model='{tmp_path}': transformers cannot load it"):
        wire_lens(compressor_model=str(tmp_path))
    with pytest.raises(BadInput, match=r"^compressor_model='int'. Give the name of a receiver"):
        wire_lens(compressor_model=3)
    require_findable("turned", list(NAMES))
    require_findable(str(saved_model()), list(NAMES))


def test_bytes_are_read_with_no_tokenizer() -> None:
    said = "a compressor of bytes reads with no model's tokenizer. Leave it out, or use start='lm'"
    with pytest.raises(BadInput, match=f"^compressor_model='nobody/nothing': {said}"):
        wire_lens(start="byte", compressor_model="nobody/nothing")
    with pytest.raises(BadInput, match=f"^compressor_model='tiny': {said}"):
        WireOptions(start="byte", compressor_model="tiny")
    origin, one = other_lm().provenance("embed").to_dict(), {"receivers": ["a"], "widths": [8], "embedding_rms": [1.0]}
    with pytest.raises(BadInput, match=r"^compressor_origin="):
        LatentWireConfig(slots=1, start="byte", compressor_origin=origin)
    with pytest.raises(BadInput, match=r"^compressor_origin=.*not from both"):
        LatentWireConfig(slots=1, **one, compressor_model="a", compressor_origin=origin)
    assert LatentWireConfig(slots=1, **one, compressor_origin=origin).own_tokenizer
