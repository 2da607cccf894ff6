"""What is stored is what was read, up to the precision that was asked for; what does not fit is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from block_runs import SITES, block_extraction, extract_blocks
from extracting import RARE, random_texts
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_lm

from consistency_lens.activations.blocks.encoding import broken_scale, encode, require_numbers
from consistency_lens.activations.blocks.reader import BlockReader
from consistency_lens.activations.documents import Tokens
from consistency_lens.activations.precision import fits_float16, lost_in_float16
from consistency_lens.errors import BadInput
from consistency_lens.frozen import FrozenLM

TEXTS = random_texts(30, shortest=2)
WITHIN = {"float32": (0.0, 0.0), "float16": (2**-11, 2**-24), "bfloat16": (2**-8, 0.0)}


def one_by_one(lm: FrozenLM, documents: list[Tokens], sites: list[str], first: int) -> torch.Tensor:
    """The slow twin of `BlockReader.read`: a pass per document, nothing padded."""
    found = []
    for document in documents:
        read = lm.read({"input_ids": torch.from_numpy(document.ids.astype(np.int64))[None]}, sites)
        found.append(torch.stack([read[site][0, first:] for site in sites], 1))
    return torch.cat(found)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("first", [0, 1, 3])
def test_a_block_is_what_single_passes_read(batch_size: int, first: int) -> None:
    lm, rng = tiny_lm("gpt2"), np.random.default_rng(0)
    documents = [Tokens(i, rng.integers(4, 90, n).astype(np.int32)) for i, n in enumerate([9, 4, 30, 5, 12, 9])]
    sites = ["embed", "mlp_in.0", "mlp_out.2", "resid_post.3"]
    found = BlockReader(lm, sites, batch_size, first).read(documents)
    torch.testing.assert_close(found, one_by_one(lm, documents, sites, first), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_stored_activations_are_those_of_the_model(tmp_path: Path, dtype: str) -> None:
    lm = tiny_lm("llama")
    blocks = extract_blocks(tmp_path / "blocks", TEXTS, lm, storage_dtype=dtype)
    documents = blocks.documents("train")
    assert len(documents) > 10
    source, reader = documents.source, BlockReader(lm, SITES, 4, 1)
    found = [documents[i] for i in range(len(documents))]
    exact = torch.cat([reader.read(source.documents(number)) for number in range(len(source.sizes))])
    stored = torch.cat([document["activations"] for document in found])
    if dtype != "int8":
        relative, absolute = WITHIN[dtype]
        torch.testing.assert_close(stored.float(), exact, rtol=relative, atol=absolute)
        return
    assert stored.dtype == torch.float32
    ends = np.cumsum(source.sizes)
    for start, end in zip(ends - source.sizes, ends, strict=True):
        step = exact[start:end].abs().amax(0) / 127
        assert ((stored[start:end] - exact[start:end]).abs() <= 0.501 * step).all()
    lost = (stored - exact).double().square().sum((0, 2)) / (blocks.variance.sum(1) * len(exact))
    assert list(blocks.metadata["lost_to_int8"]) == list(blocks.sites)
    np.testing.assert_allclose([*blocks.metadata["lost_to_int8"].values()], lost, rtol=1e-3)
    assert float(lost.max()) < 1e-3


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=12))
def test_int8_rounds_any_finite_number_to_the_nearest_step(numbers: list[float]) -> None:
    values = torch.tensor(numbers, dtype=torch.float32).reshape(-1, 1, 1)
    encoded = encode(values, "int8", ["embed"], np.zeros(len(numbers), np.int64))
    assert encoded.scale is not None and broken_scale(encoded.scale, ["embed"]) is None
    back = encoded.activations * encoded.scale.double()
    step = float(encoded.scale)
    # A number of the smallest may be less than any step that float32 has.
    assert (
        (back - values).abs() <= 0.51 * max(step, 2e-38) if step < 1 else (back - values).abs() <= 0.51 * step
    ).all()


def test_vectors_that_float16_cannot_hold_are_found_one_by_one() -> None:
    values = torch.tensor([[1.0, 2.0], [70_000.0, 0.0], [1e-8, 1e-8], [0.0, 0.0]])
    assert lost_in_float16(values).tolist() == [False, True, True, False]
    assert not fits_float16(values) and fits_float16(values[[0, 3]]) and fits_float16(values[:0])


def test_a_value_beyond_float16_names_site_and_document(tmp_path: Path) -> None:
    lm = tiny_lm("llama")
    rare = lm.tokenizer(RARE)["input_ids"][-1]
    lm.model.get_input_embeddings().weight.data[rare] *= 1e7
    texts = [*TEXTS[:20], f"w1 w2 {RARE}", *TEXTS[20:]]
    why = "the activation at resid_pre.0 in document 20 does not fit into float16"
    with pytest.raises(BadInput, match=f"storage_dtype='float16': {why}"):
        extract_blocks(tmp_path / "half", texts, lm, storage_dtype="float16")
    assert not (tmp_path / "half" / "extraction.json").exists()
    blocks = extract_blocks(
        tmp_path / "whole", texts, lm, storage_dtype="bfloat16", validation_fraction=0, test_fraction=0
    )
    for source in (blocks, block_extraction(texts, lm=lm, validation_fraction=0, test_fraction=0).stream(lm)):
        tokens = source.tokens(dtype=torch.float16)
        with pytest.raises(BadInput, match=r"dtype='torch.float16': an activation, .* does not fit"):
            tokens.__getitems__(range(len(tokens)))


@pytest.mark.parametrize("streamed", [False, True])
def test_what_is_not_a_number_names_site_and_document(tmp_path: Path, streamed: bool) -> None:
    lm = tiny_lm("llama")
    rare = lm.tokenizer(RARE)["input_ids"][-1]
    lm.model.get_input_embeddings().weight.data[rare] = torch.nan
    extraction = block_extraction(
        [*TEXTS, f"w1 w2 {RARE}"], tmp_path / "blocks", lm, validation_fraction=0, test_fraction=0
    )
    with pytest.raises(BadInput, match=f"resid_pre.0 in document {len(TEXTS)} is infinite or not a number"):
        if streamed:
            tokens = extraction.stream(lm).tokens()
            tokens.__getitems__(range(len(tokens)))
        else:
            extraction.run(lm)


def test_the_first_site_where_something_is_no_number_is_named() -> None:
    values = torch.zeros(3, 3, 4)
    values[1, 2, 0] = torch.nan
    values[2, 1, 3] = -torch.inf
    with pytest.raises(BadInput, match="at b in document 9 "):
        require_numbers(values, ["a", "b", "c"], np.array([7, 8, 9]), "a-model")
    require_numbers(values[:1], ["a", "b", "c"], np.array([7]), "a-model")
    require_numbers(torch.full((2, 1, 4), 3e38), ["a"], np.array([7, 8]), "a-model")
