"""Data that knows where it comes from, and the folder that it is opened from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tqdm.auto import tqdm

from ..errors import BadInput
from ..frozen import FrozenLM, Provenance
from .manifest import read_metadata, require_sealed
from .storage import METADATA, PROGRESS, Shard

OTHER_KIND = "It is of another family of lenses: name that with --family, or make it anew with run_lens.py extract."


class Recorded:
    """What was read of a model. A subclass has `metadata`, and says in `NOUN` what it is."""

    NOUN: ClassVar[str]
    metadata: Mapping[str, Any]

    @property
    def provenance(self) -> Provenance:
        return Provenance.from_dict(self.metadata["provenance"])

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites, in the order of the forward pass."""
        return self.provenance.sites

    def require_model(self, frozen: FrozenLM, ignore: Sequence[str] = ()) -> None:
        """Raise unless this model made it; `ignore` names provenance fields that may differ."""
        frozen.require_vocabulary(self.metadata["highest_token_id"])
        frozen.provenance(*self.sites).require_same(self.provenance, "the model", f"the {self.NOUN}", ignore)


def opened(
    given: str | Path,
    kind: str,
    noun: str,
    verify: bool,
    require: Callable[[dict[str, Any]], object] = lambda metadata: None,
    unfinished: str = "Finish it with --resume.",
) -> dict[str, Any]:
    """The metadata of a finished folder that holds data of a kind, as it was written.

    Args:
        given: the folder.
        kind: `rows`, `blocks` or `passages`.
        noun: what the user calls it.
        verify: compare every shard with its checksum; a damaged one is named. The small files beside them always are.
        require: raises where the metadata say what they cannot.
        unfinished: what to do where it was begun only.
    """
    folder = Path(given)
    if not (folder / METADATA).exists():
        began = (folder / PROGRESS).exists()
        fix = unfinished if began else "Make one with: run_lens.py extract --output_dir FOLDER."
        why = "the extraction is not finished" if began else "no extraction lies there"
        raise BadInput(noun, str(given), fix, why=why)
    metadata = read_metadata(folder / METADATA)
    if (found := metadata.get("kind", "rows")) != kind:
        raise BadInput(noun, str(given), OTHER_KIND, why=f"the folder holds {found}, not {kind}")
    require(metadata)
    require_sealed(folder, metadata)
    shards = [Shard(**record) for record in metadata["shards"]] if verify else []
    for shard in tqdm(shards, desc="verifying", unit="shard", disable=None, leave=False):
        shard.verify(folder)
    return metadata
