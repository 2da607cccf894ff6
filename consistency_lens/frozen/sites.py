"""`Site` names a place inside a frozen LLM, `Edit` says what to write there.

Where a site lies inside a model is known to `anatomy.py`.

Shapes: B rows, S columns of `input_ids`, K edited columns, d hidden size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import total_ordering
from typing import Literal

import torch

from ..errors import BadInput
from ..schema import text

# In the order in which one forward pass reaches them.
STAGES = ("embed", "resid_pre", "attn_out", "resid_mid", "mlp_in", "mlp_out", "resid_post")
LAYERED = STAGES[1:]
GRAMMAR = "Write 'embed' or one of " + ", ".join(f"'{s}.L'" for s in LAYERED)
# As it stands in a record: resolved, with a number for its layer.
SITE = text(rf"embed|({'|'.join(LAYERED)})\.\d{{1,4}}", "a site such as 'resid_post.8'")
_PATTERN = re.compile(rf"^(?:(embed)|({'|'.join(LAYERED)})\.(-?\d+|\d+/\d+))$")


@total_ordering
@dataclass(frozen=True)
class Site:
    """A place in the forward pass: `embed`, `resid_pre.L`, `attn_out.L`, `resid_mid.L`, `mlp_in.L`, `mlp_out.L` or
    `resid_post.L`.

    `embed` is what the token embedding gives out (what `inputs_embeds` replaces); `resid_pre.0` is what enters the
    first block. `attn_out` and `mlp_out` are what is added to the residual stream, so that
    `resid_post = resid_pre + attn_out + mlp_out` in every architecture; of a model that multiplies them first, such as
    Granite, they are what is multiplied. `resid_mid` is the residual stream between the two, before the MLP's norm; a
    model whose attention and MLP run in parallel has none. `mlp_in` is what the MLP itself sees, behind its norm.

    `L` may be written as a negative number or as a fraction of the depth (`resid_post.2/3`); `resolve` turns both into
    the plain number that is stored and printed.
    """

    stage: str
    layer: int | Fraction | None = None

    def __post_init__(self) -> None:
        whole = isinstance(self.layer, (int, Fraction)) and not isinstance(self.layer, bool)
        if self.stage not in STAGES or (self.layer is not None if self.stage == "embed" else not whole):
            raise BadInput("site", str(self), f"{GRAMMAR}, with L a layer number or a fraction of the depth.")
        if isinstance(self.layer, Fraction) and not 0 <= self.layer <= 1:
            raise BadInput("site", str(self), "Give a fraction of the depth between 0 and 1.")

    @classmethod
    def parse(cls, text: str | Site) -> Site:
        if isinstance(text, Site):
            return text
        found = _PATTERN.match(text.strip())
        if not found:
            raise BadInput("site", text, f"{GRAMMAR}, with L a layer number, a negative one, or a fraction like 2/3.")
        if found[1]:
            return cls("embed")
        numerator, _, denominator = found[3].partition("/")
        if not denominator:
            return cls(found[2], int(numerator))
        if int(denominator) == 0 or int(numerator) > int(denominator):
            raise BadInput("site", text, "Write a fraction of the depth between 0/1 and 1/1.")
        return cls(found[2], Fraction(int(numerator), int(denominator)))

    def resolve(self, num_layers: int) -> Site:
        """The same place with its layer as a number from 0 to `num_layers - 1`."""
        if self.layer is None:
            return self
        if isinstance(self.layer, Fraction):
            return replace(self, layer=min(int(self.layer * num_layers), num_layers - 1))
        layer = self.layer + num_layers if self.layer < 0 else self.layer
        if not 0 <= layer < num_layers:
            raise BadInput(
                "site",
                str(self),
                f"The model has {num_layers} layers: use 0 to {num_layers - 1}, or -{num_layers} to -1.",
            )
        return replace(self, layer=layer)

    @property
    def depth(self) -> tuple[int, int]:
        """Sorts resolved sites in the order in which a forward pass reaches them."""
        if isinstance(self.layer, Fraction) or (self.layer is not None and self.layer < 0):
            raise BadInput("site", str(self), "Call resolve(num_layers) first.", why="its layer is not a number yet")
        return (-1 if self.layer is None else self.layer, STAGES.index(self.stage))

    def __lt__(self, other: Site) -> bool:
        return self.depth < other.depth

    def __str__(self) -> str:
        return self.stage if self.layer is None else f"{self.stage}.{self.layer}"


def resolve_sites(sites: Site | str | Sequence[Site | str], num_layers: int) -> list[Site]:
    """Parsed, resolved, without repeats, in the order of the forward pass; `mlp_out.*` is that stage of all layers."""
    wanted = [sites] if isinstance(sites, (str, Site)) else list(sites)
    if not wanted:
        raise BadInput("sites", wanted, f"Name at least one site. {GRAMMAR}.")
    written_out = [each for site in wanted for each in _of_all_layers(site, num_layers)]
    return sorted({Site.parse(site).resolve(num_layers) for site in written_out})


def _of_all_layers(site: Site | str, num_layers: int) -> list[Site | str]:
    """`mlp_out.*` is that stage of each layer."""
    if isinstance(site, Site) or not site.strip().endswith(".*"):
        return [site]
    return [f"{site.strip().removesuffix('*')}{layer}" for layer in range(num_layers)]


# What an edit writes: a tensor, or a function of what this very pass has read at the sites named in `Edit.reads`.
Computed = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]


def require_whole(positions: int | torch.Tensor) -> None:
    """Raise unless it is an int, or a tensor of ints with one or two dimensions."""
    if isinstance(positions, torch.Tensor):
        whole = positions.dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
        if whole and positions.dim() <= 2:
            return
        shown: object = f"{positions.dtype} {list(positions.shape)}"
    elif isinstance(positions, int) and not isinstance(positions, bool):
        return
    else:
        shown = positions
    raise BadInput("positions", shown, "Give an int, or a tensor of ints [rows] or [rows, columns].")


@dataclass(frozen=True)
class Edit:
    """What to write into a frozen LLM, and where.

    Args:
        site: a `Site` or its name.
        value: `[B, d]` or `[d]` for one column, `[B, K, d]` for several; for `prepend`, `[B, K, d]` or `[K, d]` soft
            tokens. Or a function that computes one inside the pass: it is called with the name of each site of `reads`
            and what flows there in this pass, `[B, K, d]` at the edit's own columns (`[B, S, d]` for all of them),
            other edits included. Gradients flow through it.
        positions: columns of `input_ids`, negative ones counted from the right. An int means the same column in every
            row, `[B]` or `[B, K]` give each row its own, None means every column. For `prepend` it is how many of a
            row's own tokens stay in front of the soft ones (default 0: before everything; 1: after the BOS token).
        mode: `replace` the activation, `add` to it, or `prepend` soft tokens at `embed`.
        lm: the name of the frozen LLM that is meant, where a lens has several; default the only one, or the first.
        reads: what a computed value is a function of: sites that the pass reaches before this one, or this one itself,
            as it is before the edit.
        mask: `[B, K]`, for `prepend` alone: which of the soft tokens a row has, where rows have different numbers of
            them. The others are padding, wherever they stand; default all.
        rows: `[B]` bool: which rows are written, the others stay as they are, bit for bit; default all. Values of rows
            that are not written are there and mean nothing.
    """

    site: Site | str
    value: torch.Tensor | Computed
    positions: int | torch.Tensor | None = -1
    mode: Literal["replace", "add", "prepend"] = "replace"
    lm: str | None = None
    reads: tuple[Site | str, ...] = ()
    mask: torch.Tensor | None = None
    rows: torch.Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", Site.parse(self.site))
        object.__setattr__(self, "reads", tuple(Site.parse(site) for site in self.reads))
        if self.mode not in ("replace", "add", "prepend"):
            raise BadInput("mode", self.mode, "Use 'replace', 'add' or 'prepend'.")
        if callable(self.value) and not isinstance(self.value, torch.Tensor):
            if self.mode == "prepend":
                raise BadInput("value", "a function", "Give soft tokens as a tensor.", why="mode is 'prepend'")
            if not self.reads:
                raise BadInput("reads", (), "Name the sites that the function of `value` is given.")
        elif self.reads:
            why = "the value is a tensor, which reads nothing"
            raise BadInput("reads", [str(site) for site in self.reads], "Leave it out, or give a function.", why=why)
        elif not isinstance(self.value, torch.Tensor) or not 1 <= self.value.dim() <= 3:
            given = list(self.value.shape) if isinstance(self.value, torch.Tensor) else type(self.value).__name__
            raise BadInput("value", given, "Give a tensor with one to three dimensions, the last the hidden size.")
        if self.mask is not None and self.mode != "prepend":
            fix = "Leave it out: positions say which columns are written."
            raise BadInput("mask", list(self.mask.shape), fix, why=f"mode is {self.mode!r}")
        if self.rows is not None:
            if self.rows.dim() != 1 or self.rows.dtype != torch.bool:
                shown = f"{self.rows.dtype} {list(self.rows.shape)}"
                raise BadInput("rows", shown, "Give a bool for each row, [rows].")
            if self.mode == "prepend":
                raise BadInput(
                    "rows", list(self.rows.shape), "Use mask, of one row for each.", why="mode is 'prepend'"
                )
        if self.mode == "prepend":
            if str(self.site) != "embed":
                raise BadInput("site", str(self.site), "Soft tokens enter at 'embed'.", why="mode is 'prepend'")
            if not isinstance(self.positions, int) or isinstance(self.positions, bool) or self.positions < -1:
                raise BadInput("positions", self.positions, "Give one non-negative int.", why="mode is 'prepend'")
            if self.positions == -1:
                object.__setattr__(self, "positions", 0)
        elif self.positions is not None:
            require_whole(self.positions)

    @property
    def tensor(self) -> torch.Tensor:
        """The value of an edit that is not computed inside the pass."""
        if not isinstance(self.value, torch.Tensor):
            why = "it is computed inside each pass and has no value outside of one"
            raise BadInput("value", f"a function, at {self.site}", "Compare what the model predicts instead.", why=why)
        return self.value

    def at(self, value: torch.Tensor) -> Edit:
        """The same edit with another tensor to write."""
        return replace(self, value=value, reads=())
