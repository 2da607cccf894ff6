"""Passages with prompts and answers: made from any source, split by document, tokenised for several models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset, load_from_disk

from ...errors import BadInput
from ...frozen import ProvenanceMismatch
from ...frozen.loading.provenance import compare_fields
from ..corpus import Corpus, CorpusArguments, Document
from ..documents import SPLITS, SplitRules, split_of
from ..folder import ExtractionFolder
from ..manifest import FILES, SEAL
from ..plain import listed, require_columns
from ..recorded import opened
from .arguments import PassageArguments
from .build import Build
from .collator import PassageCollator
from .example import FEATURES, Example
from .formats import answers_of, examples_of, text_of
from .official import corpus_of
from .prompts import PromptFormat
from .sinks import Memory, Shards, Sink
from .tokenising import count_cuts, tokenised
from .tokens import Models, PassageTokenizer

FORMAT, KIND = 1, "passages"
IN_MEMORY = "examples in memory"  # the corpus of rows that somebody made
_ROWS = 4096  # that are copied together


@dataclass(frozen=True)
class Passages:
    """Rows of `doc_id`, `passage`, `prompt`, `answers`, `task` and `ends`, with where they come from.

    Args:
        splits: `train`, and `validation` and `test` where documents were held out.
        metadata: the corpus, the rules and counts; once tokenised, the tokenizers too.
    """

    splits: DatasetDict
    metadata: Mapping[str, Any]

    @classmethod
    def build(cls, arguments: PassageArguments, folder: str | Path | None = None, overwrite: bool = False) -> Passages:
        """Make them from what the arguments name.

        Args:
            arguments: the source and how it becomes passages.
            folder: write the rows there while they are made, for a source that is larger than memory.
            overwrite: replace passages that lie there.
        """
        corpus = corpus_of(arguments)
        if folder is None:
            return cls.of_corpus(corpus, arguments)
        with _claimed(folder, overwrite, {"corpus": corpus.identity, "rules": _rules_of(arguments)}) as path:
            sink = Shards(path)
            sink.finish(FEATURES, _made(corpus, arguments, sink))
        return cls.load(folder, verify=False)

    @classmethod
    def of_corpus(cls, corpus: Corpus, arguments: PassageArguments) -> Passages:
        """Make them from a corpus that has the columns which the format needs."""
        sink = Memory()
        metadata = _made(corpus, arguments, sink)
        return cls(DatasetDict(sink.splits), metadata)

    @classmethod
    def from_dataset(
        cls,
        dataset: Dataset | DatasetDict | IterableDataset,
        validation_fraction: float = 0.05,
        test_fraction: float = 0.05,
        seed: int = 0,
    ) -> Passages:
        """Take examples that somebody made.

        Args:
            dataset: rows of `passage`, `prompt` and `answer`, or `answers` for a list of accepted ones, and optionally
                `task` and `ends`. A Dataset is split by passage, and so is a stream, which is read to its end; the
                splits of a DatasetDict stay, and no passage may stand in two of them.
            validation_fraction: share of passages held out for choosing.
            test_fraction: share of passages held out for reporting.
            seed: of the split.
        """
        sink = Memory()
        if isinstance(dataset, IterableDataset):
            dataset = listed(dataset, "dataset")
        if isinstance(dataset, DatasetDict):
            if unknown := sorted(set(dataset) - set(SPLITS)):
                raise BadInput("dataset", unknown[0], f"Name its splits {', '.join(SPLITS)}.", why="an unknown split")
            corpora = {split: _in_memory(rows) for split, rows in dataset.items()}
            build, offset = Build(by_document=False, sink=sink, must_differ=True), 0
            for split, corpus in corpora.items():
                offset = build.read(corpus, _given_examples, partial(_named, split), offset)
            texts = {split: corpus.identity["texts"] for split, corpus in corpora.items()}
            metadata = _metadata(build, {"corpus": IN_MEMORY, **texts}, {"splits": "given"})
            return cls(DatasetDict(sink.splits), metadata)
        if not isinstance(dataset, Dataset):
            raise BadInput(
                "dataset", type(dataset).__name__, "Give a Dataset or a DatasetDict of `datasets`, or a stream."
            )
        rules = SplitRules(validation_fraction, test_fraction, seed)
        corpus, build = _in_memory(dataset), Build(by_document=False, sink=sink)
        build.read(corpus, _given_examples, partial(split_of, rules=rules))
        return cls(DatasetDict(sink.splits), _metadata(build, corpus.identity, asdict(rules)))

    @classmethod
    def of(cls, given: Any) -> Passages:
        """Open whatever a trainer may be given.

        Args:
            given: passages, the path of a folder of them, or rows that somebody made, as `from_dataset` takes them: a
                DatasetDict, or a Dataset or a stream, which is trained on as a whole.
        """
        if isinstance(given, (str, Path)):
            return cls.load(given)
        if isinstance(given, IterableDataset):
            given = listed(given, "train_dataset")
        if isinstance(given, (Dataset, DatasetDict)):
            return cls.from_dataset(given if isinstance(given, DatasetDict) else DatasetDict({"train": given}))
        if not isinstance(given, Passages):
            fix = "Give Passages, the path of a folder of them, a Dataset, a DatasetDict or an IterableDataset."
            raise BadInput("train_dataset", type(given).__name__, fix, why="there are no passages in it")
        return given

    @classmethod
    def load(cls, folder: str | Path, verify: bool = True) -> Passages:
        """Open a folder that `build` or `save` wrote, memory-mapped; a damaged file is named."""
        metadata = opened(folder, KIND, "passages", verify, unfinished="Make them again, with --overwrite.")
        own = {name: value for name, value in metadata.items() if name not in (FILES, SEAL)}
        return cls(load_from_disk(str(folder)), own)

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Write them as Arrow files with checksums; `extraction.json` comes last and says that all are there."""
        with _claimed(folder, overwrite, {name: self.metadata[name] for name in ("corpus", "rules")}) as path:
            sink = Shards(path)
            for split, rows in self.splits.items():
                for start in range(0, len(rows), _ROWS):
                    sink.add(split, rows.with_format("arrow")[start : start + _ROWS])
            there = {split: self.splits[split] for split in SPLITS if len(self.splits.get(split, []))}
            counts = {
                split: {"documents": len(rows.unique("doc_id")), "rows": len(rows)} for split, rows in there.items()
            }
            sink.finish(self.splits["train"].features, {**self.metadata, "splits": counts})
        return Path(folder)

    def tokenised(
        self,
        models: Models,
        prompts: PromptFormat | None = None,
        bos: str = "auto",
        max_passage_tokens: int | None = None,
        as_text: bool = True,
    ) -> Passages:
        """The same rows with their ids for each model, so that no batch waits for a tokenizer.

        Args:
            models: by name, a list, or a single one. Their tokenizers need not share a single word.
            prompts: the text around a prompt.
            bos: `auto`, `always` or `never`, as for `PassageTokenizer`.
            max_passage_tokens: cut longer passages to a window of so many tokens of each model, the first window that
                holds an accepted answer. Default: what does not fit into a model is refused.
            as_text: whether the models read passages as text, too. False where they read a code alone: passages may
                then be longer than what the models take.
        """
        tokenizers, prompts = PassageTokenizer.of(models, bos), prompts or PromptFormat()
        splits = {
            split: tokenised(rows, tokenizers, prompts, max_passage_tokens, as_text, {**self.metadata, "split": split})
            for split, rows in self.splits.items()
        }
        cut, lost = count_cuts(splits.values())
        record = {
            "models": {name: model.to_dict() for name, model in tokenizers.items()},
            "prompts": prompts.to_dict(),
            "bos": bos,
            "max_passage_tokens": max_passage_tokens,
            "as_text": as_text,
            "passages_cut": cut,
            "cut_without_an_answer": lost,
        }
        return replace(self, splits=DatasetDict(splits), metadata={**self.metadata, "tokens": record})

    def collator(self, models: Models) -> PassageCollator:
        """Makes batches of tokenised rows for these models, or for some of them."""
        self.require_models(models)
        record = self.metadata["tokens"]
        return PassageCollator(PassageTokenizer.of(models, record["bos"]), PromptFormat(**record["prompts"]))

    def require_models(self, models: Models) -> None:
        """Raise unless the rows were tokenised for these models, by name and tokenizer."""
        if "tokens" not in self.metadata:
            raise BadInput("passages", "text", "Tokenise them first: passages.tokenised(models).", why="no ids yet")
        tokenizers = PassageTokenizer.of(models, self.metadata["tokens"]["bos"])
        ours = _flat({name: model.to_dict() for name, model in tokenizers.items()})
        theirs = _flat(self.metadata["tokens"]["models"])
        must_match = [key for key in ours if not key.endswith(".model_id")]
        if table := compare_fields(ours, theirs, ("the models", "the passages"), must_match):
            raise ProvenanceMismatch(
                f"the models and the passages differ in their tokenizers (differing fields are marked !):\n{table}"
                "\nLoad the models that the passages name, or tokenise the passages again for these."
            )


def _flat(models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{name}.{key}": value for name, record in models.items() for key, value in record.items()}


@contextmanager
def _claimed(folder: str | Path, overwrite: bool, plan: Mapping[str, Any]) -> Iterator[Path]:
    """An empty folder that no other run writes to."""
    place = ExtractionFolder(Path(folder), resume=False, overwrite=overwrite)
    place.claim()
    try:
        place.begin({"kind": KIND, **plan})
        yield place.path
    finally:
        place.release()


def _made(corpus: Corpus, arguments: PassageArguments, sink: Sink) -> dict[str, Any]:
    """Send all rows of a corpus to the sink; returns their metadata."""
    build = Build(by_document=arguments.passage_format == "text", sink=sink)
    build.read(corpus, partial(examples_of, given=arguments), partial(split_of, rules=SplitRules.of(arguments)))
    return _metadata(build, corpus.identity, _rules_of(arguments))


def _rules_of(arguments: PassageArguments) -> dict[str, Any]:
    """Everything beside the corpus that decides the rows."""
    of_the_corpus = {field.name for field in fields(CorpusArguments)} - {"max_documents"}
    return {name: value for name, value in asdict(arguments).items() if name not in of_the_corpus}


def _metadata(build: Build, corpus: Any, rules: Mapping[str, Any]) -> dict[str, Any]:
    return {"format": FORMAT, "kind": KIND, "corpus": corpus, "rules": dict(rules), **build.facts()}


def _named(split: str, text: str) -> str:
    return split


def _in_memory(rows: Dataset) -> Corpus:
    names = rows.column_names
    answers = "answers" if "answers" in names else "answer"
    meaning = {"passage": "the text that is compressed", "prompt": "what is asked about it, or an empty string"}
    meaning[answers] = "what the model shall answer, or answers: a list of what is accepted"
    require_columns(rows, meaning, "dataset", "Or rename a column of yours: dataset.rename_column(yours, ours).")
    optional = [name for name in ("task", "ends") if name in names]
    given = CorpusArguments(text_column="passage", keep_columns=["prompt", answers, *optional])
    return Corpus(rows, given, IN_MEMORY)


def _given_examples(document: Document) -> Iterator[Example]:
    row, number = document.kept, document.doc_id
    found = answers_of(row.get("answers", row.get("answer")), number)
    task, ends = row.get("task") or "answer", row.get("ends")
    yield Example(
        number, document.text, text_of(row["prompt"], "prompt", number), found, task, True if ends is None else ends
    )
