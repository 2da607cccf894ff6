"""The folder is a dataset to everybody: load_from_disk, load_dataset, Activations; a damaged one is found out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from datasets import Dataset, load_dataset, load_from_disk
from extracting import changed_at, corpus_of, extract_to, random_texts, rows_of, shards, vectors_of
from huggingface_hub import DatasetCard, constants
from safetensors.numpy import load_file
from tiny import VOCABULARY, shared_lm, tiny_lm

from consistency_lens.activations import Activations, Corpus, CorpusArguments, CorruptShard
from consistency_lens.errors import BadInput
from consistency_lens.frozen import FrozenLM, ProvenanceMismatch

SITES = ["embed", "resid_post.2"]
TEXTS = random_texts(80)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored") / "rows"
    extract_to(folder, corpus_of(TEXTS, title=[str(i) for i in range(80)]), sites=SITES)
    return folder


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.mark.parametrize("reader", [load_from_disk, load_dataset])
def test_datasets_reads_the_folder(folder: Path, reader: object) -> None:
    before = changed_at(folder)
    found, ours = reader(str(folder)), Activations.load(folder).splits
    assert list(found) == list(ours) == ["train", "validation", "test"]
    for split in ours:
        assert found[split].features == ours[split].features
        assert found[split].to_list() == ours[split].to_list()
    assert changed_at(folder) == before


def test_rows_are_mapped_from_where_they_lie(folder: Path) -> None:
    splits = Activations.load(folder).splits
    named = {Path(entry["filename"]) for rows in splits.values() for entry in rows.cache_files}
    assert {path.resolve() for path in named} == {path.resolve() for path in shards(folder)}


def test_shards_are_plain_arrow(folder: Path) -> None:
    metadata = json.loads((folder / "extraction.json").read_text())
    assert {record["file"] for record in metadata["shards"]} == {f"{p.parent.name}/{p.name}" for p in shards(folder)}
    for record in metadata["shards"]:
        with pa.memory_map(str(folder / record["file"])) as source:
            table = pa.ipc.open_stream(source).read_all()
        assert len(table) == record["rows"]
        assert table.schema.field("resid_post.2").type == pa.list_(pa.float32(), 32)


def test_metadata_say_where_the_rows_come_from(folder: Path) -> None:
    found, rows = Activations.load(folder), rows_of(Activations.load(folder))
    assert found.provenance == shared_lm("llama").provenance(*SITES)
    assert found.sites == tuple(SITES)
    assert found.metadata["corpus"]["corpus"] == "random words"
    assert found.metadata["rules"]["min_position"] == 4
    for split, counts in found.metadata["splits"].items():
        documents = {doc_id for (doc_id, _), row in rows.items() if row["split"] == split}
        assert counts == {"documents": len(documents), "rows": len(found.splits[split])}
    highest = max(max(row["input_ids"] + row["continuation_ids"]) for row in rows.values())
    assert found.metadata["highest_token_id"] >= highest > VOCABULARY - 10
    assert set(load_file(folder / "statistics.safetensors")) == {
        f"{s}.{n}" for s in SITES for n in ("mean", "variance")
    }


def test_rows_inherit_the_licence_of_their_texts(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    card = Path(constants.HF_HUB_CACHE) / f"datasets--someone--texts/snapshots/{commit}/README.md"
    card.parent.mkdir(parents=True)
    card.write_text("---\nlicense: other\nlicense_name: ours\nlicense_link: LICENSE\n---\n")
    source = Dataset.from_dict({"text": TEXTS})
    corpus = Corpus(source, CorpusArguments(), "someone/texts", {"commit": commit}, "someone/texts")
    extract_to(tmp_path / "rows", corpus)
    extract_to(tmp_path / "others", TEXTS)
    found, unknown = (DatasetCard.load(tmp_path / name / "README.md") for name in ("rows", "others"))
    assert (found.data.license, found.data.license_name) == ("other", "ours")
    assert found.data.license_link.endswith(f"/datasets/someone/texts/blob/{commit}/LICENSE")
    assert "Inherited from someone/texts" in found.text
    assert unknown.data.license == "unknown" and "random words is not on the Hub" in unknown.text


def test_the_card_describes_the_columns_and_names_no_folder_of_this_machine(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    header = yaml.safe_load(card.split("---\n")[1])
    assert [entry["split"] for entry in header["configs"][0]["data_files"]] == ["train", "validation", "test"]
    assert "source_datasets" not in header
    assert "| title |" in card and "32 x float32" in card
    assert str(folder.parent) not in card and "/tmp" not in card


def test_rows_may_be_anywhere(copy: Path) -> None:
    shutil.rmtree(copy / ".progress")
    assert Activations.load(copy).splits["test"].to_list() == load_from_disk(str(copy))["test"].to_list()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(("damage", "said"), [(flip, "changed"), (truncate, "bytes long"), (Path.unlink, "missing")])
@pytest.mark.parametrize("which", [0, -1])
def test_a_damaged_shard_is_named(copy: Path, damage: object, said: str, which: int) -> None:
    shard = shards(copy)[which]
    damage(shard)
    with pytest.raises(CorruptShard, match=rf"{shard}.*{said}.*--resume"):
        Activations.load(copy)


def test_every_byte_of_a_shard_counts(copy: Path) -> None:
    shard = shards(copy)[0]
    content = shard.read_bytes()
    for place in range(0, len(content), len(content) // 40):
        changed = bytearray(content)
        changed[place] ^= 0x80
        shard.write_bytes(changed)
        with pytest.raises(CorruptShard):
            Activations.load(copy)
    shard.write_bytes(content)
    Activations.load(copy)


def test_checking_can_be_left_out(copy: Path) -> None:
    flip(shards(copy)[0])
    assert len(Activations.load(copy, verify=False).splits["train"]) > 0


def test_an_unfinished_folder_is_refused(copy: Path) -> None:
    (copy / "extraction.json").unlink()
    with pytest.raises(BadInput, match=r"activations=.*not finished\. Finish it with --resume"):
        Activations.load(copy)


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no extraction lies there\. Make one with: run_lens.py extract"):
        Activations.load(tmp_path)


@pytest.mark.parametrize("name", ["outputs/typo/rows", "nobody/nothing"])
def test_a_name_that_is_neither_folder_nor_on_the_hub_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match=rf"activations='{name}': there is no such folder, and the Hub says"):
        Activations.load(name)


def test_the_model_that_made_the_rows_is_recognised(folder: Path) -> None:
    found = Activations.load(folder)
    found.require_model(shared_lm("llama"))
    found.require_model(tiny_lm("llama"))


def test_another_model_is_refused_with_both_sides(folder: Path) -> None:
    found, other = Activations.load(folder), tiny_lm("qwen2")
    with pytest.raises(ProvenanceMismatch) as caught:
        found.require_model(other)
    marked = {line.split()[1] for line in str(caught.value).splitlines() if line.startswith("!")}
    assert {name for name in marked if not name.startswith("configuration.")} == {"weights"}
    assert "configuration.model_type" in marked
    for side in (found.provenance, other.provenance(*SITES)):
        assert side.weights in str(caught.value)
    found.require_model(other, ignore=["weights", "configuration"])


def test_a_smaller_vocabulary_is_refused(folder: Path) -> None:
    found = Activations.load(folder)
    highest = found.metadata["highest_token_id"]
    with pytest.raises(BadInput, match=rf"input_ids={highest}: a token id beyond.* has {highest} tokens"):
        found.require_model(
            tiny_lm("llama", vocab_size=highest), ignore=FrozenLM.provenance(tiny_lm(), *SITES).BINDING
        )
    found.require_model(tiny_lm("llama", vocab_size=highest + 1), ignore=["weights"])


def test_a_mean_of_a_site_that_was_not_read_is_refused(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"site='resid_post\.3'\. Use one of embed, resid_post\.2"):
        Activations.load(folder).mean("resid_post.3")


def test_vectors_of_the_folder_are_the_ones_of_the_rows(folder: Path) -> None:
    rows = Activations.load(folder).splits["train"]
    plain = rows.with_format("numpy")["resid_post.2"][:]
    assert (plain == vectors_of(rows, "resid_post.2")).all()
