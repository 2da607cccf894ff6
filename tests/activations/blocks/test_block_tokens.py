"""Shuffled tokens: the same from disk and from the model, through accelerate's sharding and skipping, and through a
training of transformers' own that is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from block_runs import SITES, block_extraction, extract_blocks
from datasets import IterableDataset
from extracting import random_texts
from tiny import shared_lm
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler
from transformers import Trainer, TrainingArguments

from consistency_lens.activations import Corpus, CorpusArguments
from consistency_lens.activations.blocks import Blocks, BlockStream, BySite, ShuffledTokens, as_it_is
from consistency_lens.errors import BadInput

TEXTS = random_texts(60, shortest=2)
Batch = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Blocks:
    return extract_blocks(tmp_path_factory.mktemp("tokens") / "blocks", TEXTS)


@pytest.fixture(scope="module")
def stream() -> BlockStream:
    return block_extraction(TEXTS).stream(shared_lm("llama"))


def keys_of(batch: Batch) -> list[tuple[int, int]]:
    return list(zip(batch["doc_id"].tolist(), batch["position"].tolist(), strict=True))


def in_batches(tokens: ShuffledTokens, size: int) -> list[Batch]:
    return [tokens.__getitems__(range(i, min(i + size, len(tokens)))) for i in range(0, len(tokens), size)]


def assert_same(found: list[Batch], wanted: list[Batch]) -> None:
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert set(a) == set(b)
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=0, atol=0)


def test_a_stream_has_the_batches_of_what_is_stored(blocks: Blocks, stream: BlockStream) -> None:
    for epoch in (0, 2):
        stored, streamed = (each.tokens(seed=3, blocks_per_window=3) for each in (blocks, stream))
        for tokens in (stored, streamed):
            tokens.set_epoch(epoch)
        assert_same(in_batches(streamed, 48), in_batches(stored, 48))
    assert stream.sites == blocks.sites and stream.provenance == blocks.provenance and stream.dtype == blocks.dtype


def test_each_token_comes_once_with_its_own_activations(blocks: Blocks) -> None:
    documents = blocks.documents("train")
    wanted = {}
    for document in (documents[i] for i in range(len(documents))):
        for row, position in enumerate(document["position"].tolist()):
            key = int(document["doc_id"]), position
            wanted[key] = document["input_ids"][position], document["activations"][row]
    found: dict[tuple[int, int], Any] = {}
    for batch in in_batches(blocks.tokens(seed=1, blocks_per_window=2), 50):
        for row, key in enumerate(keys_of(batch)):
            assert key not in found, "a token comes twice"
            found[key] = batch["input_ids"][row], batch["activations"][row]
    assert found.keys() == wanted.keys()
    for key, (token, activation) in found.items():
        assert token == wanted[key][0] and torch.equal(activation, wanted[key][1])


def test_a_batch_is_what_its_tokens_are_one_by_one(blocks: Blocks) -> None:
    tokens = blocks.tokens(blocks_per_window=2)
    indices = [*range(len(tokens) - 30, len(tokens)), *range(20)]  # as accelerate fills up a last batch
    batch = tokens.__getitems__(indices)
    for row, index in enumerate(indices):
        single = tokens[index]
        assert all(torch.equal(batch[name][row], single[name]) for name in batch)


def test_a_collator_names_the_sites_without_a_copy(blocks: Blocks) -> None:
    batch = blocks.tokens().__getitems__(range(6))
    named = BySite(blocks.sites)(batch)
    assert list(named["activations"]) == SITES and named["doc_id"] is batch["doc_id"]
    for number, site in enumerate(SITES):
        assert torch.equal(named["activations"][site], batch["activations"][:, number])
        assert named["activations"][site].untyped_storage().data_ptr() == batch["activations"].data_ptr()


def test_int8_and_half_precision_come_out_as_numbers(tmp_path: Path, blocks: Blocks) -> None:
    exact = blocks.tokens().__getitems__(range(40))["activations"]
    for dtype, given, largest in (("int8", torch.float32, 0.02), ("bfloat16", torch.bfloat16, 0.008)):
        tokens = extract_blocks(tmp_path / dtype, TEXTS, storage_dtype=dtype).tokens()
        found = tokens.__getitems__(range(40))["activations"]
        assert found.dtype == given
        assert float((found.float() - exact).abs().max() / exact.abs().max()) < largest
        asked = ShuffledTokens(tokens.source, dtype=torch.float16).__getitems__(range(40))["activations"]
        torch.testing.assert_close(asked, found.half(), rtol=2e-3, atol=1e-4)


def test_whole_documents_of_a_stream_are_those_that_are_stored(blocks: Blocks, stream: BlockStream) -> None:
    stored, streamed = blocks.documents("test"), stream.documents("test")
    assert len(stored) == len(streamed) > 5
    assert_same([streamed[i] for i in range(len(stored))], [stored[i] for i in range(len(stored))])
    assert_same([stored[-1]], [stored[len(stored) - 1]])
    with pytest.raises(IndexError):
        stored[len(stored)]


def test_a_stream_measures_what_an_extraction_stores(blocks: Blocks, stream: BlockStream) -> None:
    measured = stream.measured()
    for number, site in enumerate(SITES):
        np.testing.assert_allclose(measured[site].mean, blocks.mean[number], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(measured[site].variance, blocks.variance[number], rtol=1e-12)
        assert measured[site].norm_quantiles() == blocks.metadata["norms"][site]
    assert stream.measured(blocks=2)[SITES[0]].count == sum(stream.source().sizes[:2])


# ---- accelerate's sharding and skipping


def loaders(tokens: list[ShuffledTokens], size: int, processes: int, **more: Any) -> list[Any]:
    """What each of several processes has from accelerate, which is told their number here."""
    found = []
    for rank in range(processes):
        plain = DataLoader(
            tokens[rank], batch_size=size, sampler=SequentialSampler(tokens[rank]), collate_fn=as_it_is, **more
        )
        found.append(prepare_data_loader(plain, num_processes=processes, process_index=rank, put_on_device=False))
    return found


def epoch_of(loader: Any, epoch: int, skip: int = 0) -> list[Batch]:
    if skip:
        loader = skip_first_batches(loader, skip)
    loader.set_epoch(epoch)
    return list(loader)


@pytest.mark.parametrize("epoch", [0, 1])
def test_two_processes_share_the_tokens_of_an_epoch(blocks: Blocks, epoch: int) -> None:
    each = [blocks.tokens(blocks_per_window=2) for _ in range(2)]
    first, second = (epoch_of(loader, epoch) for loader in loaders(each, 16, 2, drop_last=True))
    assert len(first) == len(second) == len(each[0]) // 32
    found = [key for batch in [*first, *second] for key in keys_of(batch)]
    assert len(found) == len(set(found)) == 32 * len(first)
    # A step of both is one batch of twice the size.
    (alone,) = loaders([blocks.tokens(blocks_per_window=2)], 32, 1, drop_last=True)
    both = [{name: torch.cat([a[name], b[name]]) for name in a} for a, b in zip(first, second, strict=True)]
    assert_same(both, epoch_of(alone, epoch))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_is_resumed_goes_on_with_the_next_batch(blocks: Blocks, processes: int) -> None:
    def fresh() -> list[Any]:
        return loaders([blocks.tokens(blocks_per_window=2) for _ in range(processes)], 16, processes)

    for whole, resumed in zip(fresh(), fresh(), strict=True):
        assert_same(epoch_of(resumed, 3, skip=5), epoch_of(whole, 3)[5:])


def test_workers_that_outlive_an_epoch_learn_of_the_next(blocks: Blocks) -> None:
    tokens = [blocks.tokens(blocks_per_window=2)]
    (inside,), (beside,) = loaders(tokens, 64, 1), loaders(tokens, 64, 1, num_workers=1, persistent_workers=True)
    for epoch in range(3):
        assert_same(epoch_of(beside, epoch), epoch_of(inside, epoch))


class Recorder(nn.Module):
    """Notes which tokens it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(len(SITES), 32))
        self.seen: list[Any] = []

    def forward(self, activations: torch.Tensor, **labels: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen.append((keys_of(labels), self.weight.detach().clone()))
        return {"loss": (activations - self.weight).square().mean()}


def test_a_trainer_resumes_in_the_middle_of_an_epoch(tmp_path: Path, blocks: Blocks, stream: BlockStream) -> None:
    def train(tokens: ShuffledTokens, folder: str, resume: str | None = None, **more: Any) -> list[Any]:
        arguments = TrainingArguments(
            output_dir=str(tmp_path / folder),
            train_sampling_strategy="sequential",
            remove_unused_columns=False,
            per_device_train_batch_size=64,
            learning_rate=0.1,
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
            **more,
        )
        model = Recorder()
        trainer = Trainer(model, arguments, train_dataset=tokens, data_collator=as_it_is)
        trainer.train(resume_from_checkpoint=resume)
        return model.seen

    tokens = blocks.tokens(blocks_per_window=2)
    steps = -(-len(tokens) // 64)
    whole = train(tokens, "whole", num_train_epochs=2, save_strategy="steps", save_steps=steps + 3)
    assert len(whole) == 2 * steps
    assert len({key for keys, _ in whole[:steps] for key in keys}) == len(tokens)
    assert [keys for keys, _ in whole[:steps]] != [keys for keys, _ in whole[steps:]], "an order for each epoch"
    checkpoint = str(tmp_path / f"whole/checkpoint-{steps + 3}")
    resumed = train(stream.tokens(blocks_per_window=2), "resumed", checkpoint, num_train_epochs=2)
    assert [keys for keys, _ in resumed] == [keys for keys, _ in whole[steps + 3 :]]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(resumed, whole[steps + 3 :], strict=True))


# ---- refused


def test_a_second_shuffling_is_refused(blocks: Blocks) -> None:
    tokens = blocks.tokens(blocks_per_window=1)
    with pytest.raises(BadInput, match="Use sequential: the tokens are shuffled already"):
        tokens.__getitems__(np.random.default_rng(0).permutation(len(tokens)).tolist())


@pytest.mark.parametrize("index", [-1, 10**6])
def test_an_index_beyond_the_tokens_is_an_error(blocks: Blocks, index: int) -> None:
    with pytest.raises(IndexError):
        blocks.tokens().__getitems__([index])


def test_a_stream_takes_no_workers(stream: BlockStream) -> None:
    loader = DataLoader(stream.tokens(), batch_size=8, collate_fn=as_it_is, num_workers=1)
    with pytest.raises(RuntimeError, match=r"BadInput: dataloader_num_workers='1 or more'.*Use 0"):  # torch's wrapping
        next(iter(loader))


def test_a_stream_without_an_end_needs_one() -> None:
    source = IterableDataset.from_generator(lambda: ({"text": text} for text in TEXTS))
    for limit in (None, 40):
        extraction = block_extraction(Corpus(source, CorpusArguments(max_documents=limit), "endless"))
        if limit is None:
            with pytest.raises(BadInput, match="max_documents=None: shuffled tokens are counted first"):
                extraction.stream(shared_lm("llama"))
        else:
            found = extraction.stream(shared_lm("llama")).tokens()
            exact = block_extraction(TEXTS[:40]).stream(shared_lm("llama")).tokens()
            assert len(found) == len(exact)
            assert_same([found.__getitems__(range(20))], [exact.__getitems__(range(20))])
