"""What has to hold of two lenses before one reads the other."""

from __future__ import annotations

from collections.abc import Iterable

from ..base.modeling import LensModel
from ..errors import BadInput
from ..frozen import FrozenLM, Site


def require_one_model(words: LensModel, other: LensModel) -> FrozenLM:
    """The model that both read; raise where they do not, or where it is not at hand."""
    require_vector_lens(words)
    if words.config.origin.weights != other.config.origin.weights:
        fix = f"Give a lens of {other.config.origin.model_id}."
        raise BadInput("words", words.config.origin.model_id, fix, why="the two lenses were made for different models")
    return words.reader


def require_vector_lens(words: LensModel) -> str:
    """The site of a lens that reads one activation, and restores it; raise where it is of another kind."""
    if words.config.written != list(words.config.sites or []):
        fix = "Give a lens in words: it restores what it reads."
        raise BadInput("words", words.config.model_type, fix, why="it writes elsewhere than it reads")
    return words.config.only_site


def each_once(texts: Iterable[str]) -> dict[str, int]:
    """Texts in their order, equal ones once, and the number under which each came first."""
    found: dict[str, int] = {}
    for number, text in enumerate(texts):
        found.setdefault(text, number)
    return found


def layer_behind(site: str, frozen: FrozenLM) -> int:
    """The last layer whose MLP has written to the stream that a site is; -1 where none has."""
    found = frozen.site(Site.parse(site))
    if found.stage == "embed":
        return -1
    if found.stage == "resid_post":
        return int(found.layer or 0)
    if found.stage in ("resid_pre", "resid_mid"):
        return int(found.layer or 0) - 1
    fix = "Give a lens of resid_pre, resid_mid or resid_post."
    raise BadInput("words", site, fix, why="its site is no residual stream, to which features are written")
