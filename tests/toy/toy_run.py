"""What a run of the command line asks of the toy family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from toy_family import READS, ToyLens

from consistency_lens.activations import Corpus
from consistency_lens.activations.passages import PassageArguments, Passages
from consistency_lens.activations.storage import METADATA
from consistency_lens.base.family_run import FamilyRun
from consistency_lens.frozen import FrozenLM, FrozenModels, Provenance


@dataclass
class ToyOptions:
    rank: int = field(default=4, metadata={"help": "Number of features of each token."})


@dataclass
class ToyDataOptions:
    output_dir: str = field(default="outputs/toy", metadata={"help": "Folder for the passages."})
    sites: list[str] = field(default_factory=lambda: list(READS), metadata={"help": "Sites that the lens reads."})
    passage_words: int = field(default=12, metadata={"help": "Number of words of a passage."})
    validation_fraction: float = field(default=0.2, metadata={"help": "Share of documents held out for choosing."})
    test_fraction: float = field(default=0.2, metadata={"help": "Share of documents held out for reporting."})
    seed: int = field(default=0, metadata={"help": "Seed of the split and the spans."})
    resume: bool = field(default=False, metadata={"help": "Resume what was begun in output_dir."})
    overwrite: bool = field(default=False, metadata={"help": "Overwrite what lies in output_dir."})


class ToyData(Passages):
    """Passages that know the first model they are for."""

    @property
    def provenance(self) -> Provenance:
        return Provenance.from_dict(self.metadata["provenance"])

    @property
    def sites(self) -> tuple[str, ...]:
        return self.provenance.sites


@dataclass(frozen=True)
class Place:
    path: Path

    @property
    def complete(self) -> bool:
        return (self.path / METADATA).is_file()


class ToyBill:
    def require_room(self) -> None:
        """A few passages need none."""


class ToyExtraction:
    """Passages of a corpus, cut by words: no model is asked."""

    def __init__(self, corpus: Corpus, tokenizer: Any, config: Any, arguments: ToyDataOptions, command: str) -> None:
        self.corpus, self.arguments, self.folder = corpus, arguments, Place(Path(arguments.output_dir))
        self.sites = arguments.sites

    def open(self) -> None:
        """Nothing can be wrong with it."""

    def bill(self, frozen: FrozenLM) -> ToyBill:
        return ToyBill()

    def run(self, frozen: FrozenLM) -> Path:
        if self.folder.complete and self.arguments.resume:
            return self.folder.path
        names = ("passage_words", "validation_fraction", "test_fraction", "seed")
        own = {name: vars(self.arguments)[name] for name in names}
        cut = PassageArguments(prompt_words=2, answer_words=2, reconstruction_share=0.0, **own)
        made = Passages.of_corpus(self.corpus, cut)
        origin = frozen.provenance(*self.sites).to_dict()
        return replace(made, metadata={**made.metadata, "provenance": origin}).save(self.folder.path, overwrite=True)


class ToyRun(FamilyRun):
    lens_options = ToyOptions
    data_options = ToyDataOptions
    extraction = ToyExtraction
    data = ToyData
    several = True

    def new_lens(self, frozen: Any, data: ToyData, sites: Sequence[str]) -> ToyLens:
        return ToyLens.from_models(FrozenModels.of(frozen), rank=self.values["rank"])
