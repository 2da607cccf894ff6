"""Passages of a corpus for a wire: cut by words, so that no model is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..activations import Corpus
from ..activations.corpus import CorpusArguments
from ..activations.passages import PassageArguments, Passages
from ..activations.passages.arguments import PassageRules
from ..activations.storage import METADATA
from ..errors import BadInput
from ..frozen import FrozenLM, Provenance
from ..options import option


@dataclass
class WireDataOptions(PassageRules):
    """Passages that are cut out of texts, or come with questions; what is asked behind them; and where they lie."""

    output_dir: str = option("outputs/passages", "Folder for the passages.")
    sites: list[str] = option(["embed"], "Site that a wire writes: embed.")
    passage_words: int = option(64, "Number of words of a passage, with format text.")
    recall_share: float = option(0.2, "Share of passage recall, with format text; continuation takes what is left.")
    resume: bool = option(False, "Resume what was begun in output_dir.")
    overwrite: bool = option(False, "Overwrite what lies in output_dir.")

    def __post_init__(self) -> None:
        if list(self.sites) != ["embed"]:
            raise BadInput("sites", self.sites, "Leave it out: soft tokens enter at embed.")
        super().__post_init__()

    def rules(self, texts: CorpusArguments | None = None) -> PassageArguments:
        """How texts become passages; with which texts, where that matters."""
        own = {each.name: vars(self)[each.name] for each in fields(PassageRules)}
        return PassageArguments(**own, **(vars(texts) if texts else {}))


class WireData(Passages):
    """Passages that know the first model they are for."""

    @property
    def provenance(self) -> Provenance:
        return Provenance.from_dict(self.metadata["provenance"])

    @property
    def sites(self) -> Sequence[str]:
        return self.provenance.sites


@dataclass(frozen=True)
class WireFolder:
    """Where passages lie, or will."""

    path: Path

    @property
    def complete(self) -> bool:
        return (self.path / METADATA).is_file()


class NoBill:
    """Passages take less room than their texts."""

    def __str__(self) -> str:
        return "passages take about as much room as their texts"

    def require_room(self) -> None:
        """There is nothing to refuse."""


class WireExtraction:
    """
    Args:
        corpus: the texts.
        tokenizer, config: of the first model; not asked.
        arguments: how texts become passages.
        command: that is run.
    """

    def __init__(
        self, corpus: Corpus, tokenizer: Any, config: Any, arguments: WireDataOptions, command: str = ""
    ) -> None:
        self.corpus, self.arguments, self.folder = corpus, arguments, WireFolder(Path(arguments.output_dir))
        self.sites = arguments.sites

    def open(self) -> None:
        """Nothing is left open."""

    def bill(self, frozen: FrozenLM) -> NoBill:
        return NoBill()

    def run(self, frozen: FrozenLM) -> Path:
        """Make them, unless they are there and may be used."""
        if self.folder.complete and self.arguments.resume:
            return self.folder.path
        made = Passages.of_corpus(self.corpus, self.arguments.rules())
        origin = frozen.provenance(*self.sites).to_dict()
        known = replace(made, metadata={**made.metadata, "provenance": origin})
        return known.save(self.folder.path, overwrite=self.arguments.overwrite)
