"""A decoder or an encoder alone: saved, loaded from a whole lens, and put together again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lens_runs import stirred, tiny_lens
from safetensors.torch import load_file
from tiny import tiny_lm

from consistency_lens import BadInput, ConsistencyLens, LensDecoder, LensEncoder, ProvenanceMismatch
from consistency_lens.text.parts.generation import Noise, Words

KINDS = ["full", "lora", "projections"]


def test_a_weight_of_several_names_is_in_the_state_once() -> None:
    """Without what is frozen, as DeepSpeed asks for it, nothing of the frozen model is left."""
    lens = tiny_lens(tiny_lm(), trainable="lora")
    state = lens.state_dict()
    frozen = [name for name, p in lens.named_parameters() if not p.requires_grad]
    assert set(frozen) <= state.keys() and len({t.data_ptr() for t in state.values()}) == len(state)
    assert all("lora_" in name or ".map." in name for name in state.keys() - set(frozen))


def lens_of(kind: str, **settings: object) -> ConsistencyLens:
    return stirred(tiny_lens(tiny_lm(), trainable=kind, **settings)).eval()


def written(decoder: LensDecoder) -> torch.Tensor:
    return decoder.write(torch.randn(5, 32, generator=torch.Generator().manual_seed(1)), Noise(3)).ids


def read(encoder: LensEncoder, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return encoder(Words.ended_by(ids, encoder.config.stop_id, encoder.config.pad_id))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("whole", [True, False])
def test_a_part_comes_back_bit_for_bit(kind: str, whole: bool, tmp_path: Path) -> None:
    lens = lens_of(kind)
    ids = written(lens.decoder)
    for part in [lens] if whole else [lens.encoder, lens.decoder]:
        part.save_pretrained(tmp_path)
    subject = tiny_lm()
    decoder, encoder = (part.from_pretrained(tmp_path, subject) for part in (LensDecoder, LensEncoder))
    assert torch.equal(written(decoder), ids) and not decoder.training
    assert torch.equal(read(encoder, ids), read(lens.encoder, ids))
    together = ConsistencyLens.from_pretrained(tmp_path, tiny_lm())
    assert torch.equal(written(together.decoder), ids)


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_brings_only_what_is_its_own(kind: str, tmp_path: Path) -> None:
    lens_of(kind).encoder.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == {"encoder.map.weight", "encoder.map.bias"}
    assert not (tmp_path / "decoder").exists()
    with pytest.raises(BadInput, match="differs in decoder"):
        ConsistencyLens.from_pretrained(tmp_path, tiny_lm())


def test_a_part_with_weights_of_its_own_needs_no_subject_and_others_do(tmp_path: Path) -> None:
    lens = lens_of("full", encoder_trainable="lora")
    lens.save_pretrained(tmp_path)
    assert torch.equal(written(LensDecoder.from_pretrained(tmp_path)), written(lens.decoder))
    with pytest.raises(BadInput, match="encoder: trainable=lora"):
        LensEncoder.from_pretrained(tmp_path)
    with pytest.raises(ProvenanceMismatch, match="the lens"):
        LensDecoder.from_pretrained(tmp_path, tiny_lm("qwen3"))


def test_parts_of_two_lenses_are_not_mixed(tmp_path: Path) -> None:
    lens_of("projections").decoder.save_pretrained(tmp_path)
    other = lens_of("projections", code_length=7).encoder
    with pytest.raises(BadInput, match="there is another lens"):
        other.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == {"decoder.map.weight", "decoder.map.bias"}
