"""A folder of blocks: what it says, and what it refuses."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from block_runs import SITES, block_extraction, change_metadata, elsewhere, extract_blocks
from extracting import extract_to, random_texts
from safetensors.torch import load_file, save_file
from tiny import shared_lm, tiny_lm

from consistency_lens.activations import Activations, CorruptShard
from consistency_lens.activations.blocks import BlockArguments, Blocks
from consistency_lens.activations.documents import Tokens
from consistency_lens.activations.statistics import SiteStatistics, statistics_of
from consistency_lens.activations.storage import checksum_of
from consistency_lens.errors import BadInput
from consistency_lens.frozen import ProvenanceMismatch

TEXTS = random_texts(60, shortest=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blocks") / "int8"
    extract_blocks(folder, TEXTS, storage_dtype="int8")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "blocks"))


def first_file(folder: Path) -> Path:
    return folder / Blocks.load(folder, verify=False).shards("train")[0].file


def forge(folder: Path, path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Replace a file, checksum and all: somebody has written it like that."""
    save_file(tensors, path)
    shards = json.loads((folder / "extraction.json").read_text())["shards"]
    own = next(shard for shard in shards if folder / shard["file"] == path)
    own |= {"bytes": path.stat().st_size, "checksum": checksum_of(path)}
    change_metadata(folder, shards=shards)


def test_metadata_says_what_lies_there(made: Path) -> None:
    blocks, lm = Blocks.load(made), shared_lm("llama")
    assert blocks.sites == tuple(SITES) and blocks.dtype == torch.int8
    assert blocks.provenance == lm.provenance(*SITES)
    counts = blocks.metadata["splits"]
    for split, count in counts.items():
        documents = blocks.documents(split)
        assert len(documents) == count["documents"] > 5
        found = [documents[i] for i in range(len(documents))]
        assert sum(len(document["position"]) for document in found) == count["tokens"] == len(blocks.tokens(split))
        ids = [int(document["doc_id"]) for document in found]
        assert ids == sorted(set(ids))
        for document in found:
            whole = lm.tokenizer(TEXTS[int(document["doc_id"])])["input_ids"]
            assert document["input_ids"].tolist() == whole, "those that are not kept included"
            assert document["position"].tolist() == list(range(1, len(whole)))
            assert document["activations"].shape == (len(whole) - 1, len(SITES), 32)
    assert sum(count["documents"] for count in counts.values()) == len(TEXTS)
    assert blocks.metadata["tokens"] == sum(len(text.split()) + 1 for text in TEXTS)


def test_statistics_are_those_of_all_training_tokens(tmp_path: Path) -> None:
    blocks = extract_blocks(tmp_path / "blocks", TEXTS)
    tokens = blocks.tokens()
    exact = tokens.__getitems__(range(len(tokens)))["activations"].double()
    torch.testing.assert_close(blocks.mean, exact.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(blocks.variance, exact.var(0, correction=0), rtol=1e-12, atol=1e-12)
    for number, site in enumerate(SITES):
        norms = exact[:, number].norm(dim=1)
        said = blocks.metadata["norms"][site]
        assert said["0.0"] == pytest.approx(float(norms.min())) and said["1.0"] == pytest.approx(float(norms.max()))
        assert said["0.5"] == pytest.approx(float(np.quantile(norms, 0.5, method="inverted_cdf")), rel=0.006)


def test_statistics_on_the_device_are_those_of_numpy() -> None:
    values = torch.randn(50, 2, 8, generator=torch.Generator().manual_seed(0)) * 3 + 100
    for number, (_, found) in enumerate(statistics_of(values, ["a", "b"]).items()):
        slow = SiteStatistics.of(values[:, number].numpy())
        for name, value in vars(slow).items():
            np.testing.assert_allclose(vars(found)[name], value, rtol=1e-12, err_msg=name)


def test_the_bill_comes_first_and_holds(tmp_path: Path) -> None:
    lm = shared_lm("llama")
    for dtype, width in (("float16", 2), ("int8", 1)):
        extraction = block_extraction(TEXTS, tmp_path / dtype, lm, storage_dtype=dtype)
        extraction.open()
        bill = extraction.bill(lm)
        assert bill.bytes_per_token == width * len(SITES) * 32
        blocks = Blocks.load(extraction.run(lm))
        assert bill.tokens == blocks.metadata["tokens"]
        assert bill.rows == sum(count["tokens"] for count in blocks.metadata["splits"].values())
        lines = dict(bill.entries())
        assert lines["per token"] == f"{bill.bytes_per_token} B" and lines["tokens kept"] == f"about {bill.rows:,}"
        assert {"on disk", "time", "speed", "documents", "in memory"} <= set(lines)


def test_the_bill_of_gpt2_is_what_it_is() -> None:
    from consistency_lens.activations.blocks.bill import BlockBill
    from consistency_lens.activations.blocks.documents import BlockRules

    sample = [Tokens(0, np.zeros(512, np.int32))]
    bill = BlockBill.of_blocks(sample, 1e6, 10**6, BlockRules(), (24, 768), "float16", chunks=3907)
    assert bill.bytes_per_token == 36_864
    assert bill.bytes == pytest.approx(511e6 * 36_864, rel=0.01)
    with pytest.raises(BadInput, match=r"about 18.* TB are needed.*storage_dtype int8"):
        bill.require_room()


def test_another_model_is_refused(made: Path) -> None:
    blocks = Blocks.load(made)
    blocks.require_model(shared_lm("llama"))
    other = tiny_lm("llama", hidden_size=64)
    with pytest.raises(ProvenanceMismatch, match=r"the model and the blocks do not come from the same model"):
        blocks.require_model(other)
    blocks.require_model(other, ignore=["weights", "configuration"])
    with pytest.raises(BadInput, match=r"config='hidden size 32'"):
        block_extraction(TEXTS).run(other)


def test_rows_and_blocks_are_not_taken_for_each_other(made: Path, tmp_path: Path) -> None:
    extract_to(tmp_path / "rows", TEXTS)
    with pytest.raises(BadInput, match="the folder holds rows, not blocks"):
        Blocks.load(tmp_path / "rows")
    with pytest.raises(BadInput, match="the folder holds blocks, not rows"):
        Activations.load(made)
    with pytest.raises(BadInput, match=r"(?m)^! +kind +blocks +None$"):
        block_extraction(TEXTS, tmp_path / "rows", resume=True).run(shared_lm("llama"))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "removed"])
def test_a_damaged_block_is_named(folder: Path, damage: str) -> None:
    path = first_file(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flipped" else content[:-7])
    with pytest.raises(CorruptShard, match=path.name):
        Blocks.load(folder)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (float("nan"), f"at {SITES[1]}, channel 5, is nan"),
        (float("inf"), f"at {SITES[1]}, channel 5, is inf"),
        (0.0, f"at {SITES[1]}, channel 5, is 0.0"),
        (-1.0, f"at {SITES[1]}, channel 5, is -1.0"),
        (None, "holds no scale"),
        ("short", r"has the form \[2, 32\]"),
    ],
)
def test_a_broken_scale_is_refused_whoever_wrote_it(folder: Path, value: float | str | None, why: str) -> None:
    path = first_file(folder)
    tensors = load_file(path)
    if value is None:
        del tensors["scale"]
    elif value == "short":
        tensors["scale"] = tensors["scale"][:2].clone()
    else:
        tensors["scale"][1, 5] = value
    forge(folder, path, tensors)
    with pytest.raises(CorruptShard, match=f"{path.name} .*{why}"):
        Blocks.load(folder)


def test_activations_of_another_shape_are_refused(folder: Path) -> None:
    path = first_file(folder)
    tensors = load_file(path)
    forge(folder, path, tensors | {"activations": tensors["activations"][:-1].clone()})
    tokens = Blocks.load(folder).tokens()
    with pytest.raises(CorruptShard, match=f"{path.name} holds .* instead of"):
        tokens.__getitems__(range(len(tokens)))


@pytest.mark.parametrize("older", [False, True])
def test_what_stands_beside_the_blocks_is_checked_as_well(folder: Path, older: bool) -> None:
    """In a folder that was made before there was a checksum of it, as far as it can be."""
    path, statistics = folder / "extraction.json", folder / "statistics.safetensors"
    plain = json.loads(path.read_text())
    if older:
        del plain["checksum"], plain["files"]
        path.write_text(json.dumps(plain))
        Blocks.load(folder)
    path.write_text(json.dumps({**plain, "shards": [*plain["shards"], plain["shards"][0]]}))
    with pytest.raises(CorruptShard, match=r"extraction\.json is changed"):
        Blocks.load(folder)
    path.write_text(json.dumps(plain))
    arrays = load_file(statistics)
    save_file({name: tensor * (float("nan") if older else 2) for name, tensor in arrays.items()}, statistics)
    with pytest.raises(CorruptShard, match=r"statistics\.safetensors (is changed|holds no finite)"):
        Blocks.load(folder)


def test_a_folder_without_blocks_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(BadInput, match="no extraction lies there"):
        Blocks.load(tmp_path)
    (folder / "extraction.json").unlink()
    with pytest.raises(BadInput, match="the extraction is not finished"):
        Blocks.load(folder)


def test_a_split_without_blocks_is_refused(tmp_path: Path) -> None:
    blocks = extract_blocks(tmp_path / "blocks", TEXTS[:20], test_fraction=0)
    with pytest.raises(BadInput, match=r"split='test': no blocks are of this split. Use one of train, validation"):
        blocks.tokens("test")
    with pytest.raises(BadInput, match="no document was left for training"):
        extract_blocks(tmp_path / "few", TEXTS[:1], validation_fraction=0.999, test_fraction=0)


def limited(folder: str, log: str) -> None:
    """A limit on the size of a file: as a file system without room for the block would have it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
    with pytest.raises(BadInput) as caught:
        extract_blocks(Path(folder), TEXTS)
    Path(log).write_text(str(caught.value))


def test_a_full_disk_is_named_and_the_run_goes_on(tmp_path: Path) -> None:
    assert elsewhere(limited, str(tmp_path / "blocks"), str(tmp_path / "log")) == 0
    said = (tmp_path / "log").read_text()
    assert "no room left to write data-00000-" in said and "--resume: all finished shards are kept" in said
    assert not list((tmp_path / "blocks").rglob("*.part"))
    extract_blocks(tmp_path / "blocks", TEXTS, resume=True)


def test_help_texts_begin_with_a_noun() -> None:
    from dataclasses import fields

    assert all(not field.metadata["help"].startswith(("Of ", "What ")) for field in fields(BlockArguments))


def test_the_card_says_what_lies_there_and_keeps_what_people_wrote(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    blocks = Blocks.load(folder)
    count = blocks.metadata["splits"]["train"]
    assert f"| train | {count['documents']} | {count['tokens']:,} | 0 |" in card
    assert "int8, with a scale per channel and block" in card and "from position\n1 on" in card
    assert all(f"| {site} | " in card.replace("\\_", "_") for site in SITES)
    worst = max(blocks.metadata["lost_to_int8"].values())
    assert f"| lost to int8 | at most {100 * worst:.2g} % of the variance, at " in card
    (folder / "README.md").write_text(card + "\nMy own words.\n")
    extract_blocks(folder, TEXTS, overwrite=True)
    again = (folder / "README.md").read_text()
    assert (
        "My own words." in again
        and "lost to int8" not in again
        and "| stored as | float32, never normalised |" in again
    )
    snippet = card.split("```python\n")[1].split("```")[0]
    assert 'Blocks.load("int8")' in snippet


def test_the_bill_needs_no_folder_yet(tmp_path: Path) -> None:
    lm = shared_lm("llama")
    bill = block_extraction(random_texts(20, shortest=6, longest=12), tmp_path / "a/b/blocks", lm).bill(lm)
    assert bill.free_bytes > 0 and not (tmp_path / "a").exists()
