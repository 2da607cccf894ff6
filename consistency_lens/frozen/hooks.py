"""Read and write activations of a frozen LLM from inside its forward pass; the only file that registers hooks.

Both doors are context managers: hooks exist only inside the `with`, and go away on any exception. They nest, and an
inner one sees what an outer one wrote. Threads take turns: while one is inside, the others wait, since its hooks would
meet their passes too.

Shapes: B rows, S columns of this pass, K chosen columns, d hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from threading import RLock
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from ..errors import BadInput
from .anatomy.parts import Port, locate
from .loading.compiling import noticing_hooks
from .sites import Computed, Site

# Takes what flows through a site [B, S, d] and returns what shall flow on, or None to leave it as it is.
Touch = Callable[[torch.Tensor], torch.Tensor | None]


class Write(NamedTuple):
    """An `Edit` whose site and columns are settled for one particular pass."""

    site: Site
    value: torch.Tensor | Computed  # gives [B, K, d], or [B, S, d] with columns None
    columns: torch.Tensor | None  # [B, K], not negative
    add: bool
    match: bool = False  # scale each value to the norm of what is there first
    reads: tuple[Site, ...] = ()  # what a computed value is a function of
    rows: torch.Tensor | None = None  # [B], which rows are written; the others flow on as they are


_TURNS: WeakKeyDictionary[PreTrainedModel, Any] = WeakKeyDictionary()


@contextmanager
def taking_turns(model: PreTrainedModel) -> Iterator[None]:
    """Keep other threads out of the model's forward pass. Compiled code looks at hooks in here."""
    with _TURNS.setdefault(model, RLock()), noticing_hooks(model):
        yield


class _Reached(Exception):
    """Raised at the highest wanted site, with what was found: nothing above it needs to be computed."""


def _attach(port: Port, touch: Touch) -> list[Callable[[], None]]:
    """Hook a port; returns what takes the hooks away again."""
    if port.block is not None:
        return _attach_flat(port.block, port._replace(block=None), touch)
    if port.side == "stream":
        return _attach_to_stream(port.module, touch)

    def before(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = "" if args else _flowing(kwargs)
        touched = touch(kwargs[name] if name else args[0])
        if touched is None:
            return None
        return (args, kwargs | {name: touched}) if name else ((touched, *args[1:]), kwargs)

    def after(module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not isinstance(output, (tuple, list)):
            return touch(output)
        touched = touch(output[0])
        return None if touched is None else type(output)([touched, *output[1:]])

    if port.side == "input":
        return [port.module.register_forward_pre_hook(before, with_kwargs=True).remove]
    return [port.module.register_forward_hook(after).remove]


def _attach_flat(block: torch.nn.Module, port: Port, touch: Touch) -> list[Callable[[], None]]:
    """Touch vectors that come as `[B * S, d]`, in rows again: their number is that of the block's own input."""
    shape: list[int] = []

    def count(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        shape[:] = (args[0] if args else kwargs[_flowing(kwargs)]).shape[:2]

    def in_rows(hidden: torch.Tensor) -> torch.Tensor | None:
        touched = touch(hidden.unflatten(0, shape))
        return None if touched is None else touched.flatten(0, 1)

    return [block.register_forward_pre_hook(count, with_kwargs=True).remove, *_attach(port, in_rows)]


_STREAMS: WeakKeyDictionary[torch.nn.Module, list[Touch]] = WeakKeyDictionary()


def _attach_to_stream(module: torch.nn.Module, touch: Touch) -> list[Callable[[], None]]:
    """Touch the very tensor that the block gives to a module and adds to later, and change it in place.

    That comes before all other hooks of the module, however they nest: of a model without a norm before its MLP,
    `mlp_in`, which lies behind, is the input of the same module. The innermost hook runs first, and acts for all.
    """
    touches = _STREAMS.setdefault(module, [])
    touches.append(touch)
    number = len(touches)

    def act(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if len(touches) > number:
            return
        stream = args[0] if args else kwargs[_flowing(kwargs)]
        for each in touches:
            touched = each(stream.clone())  # a copy: gradients need what was there
            if touched is not None:
                stream.copy_(touched)

    handle = module.register_forward_pre_hook(act, with_kwargs=True, prepend=True)
    return [handle.remove, lambda: touches.remove(touch)]


def _flowing(kwargs: dict[str, Any]) -> str:
    """The name of the argument that carries the activations, where a module is called with names alone."""
    return next(name for name, value in kwargs.items() if _is_stream(value))


def _is_stream(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() == 3


def _writer(write: Write, seen: Mapping[str, torch.Tensor]) -> Touch:
    def touch(hidden: torch.Tensor) -> torch.Tensor:
        value = write.value if isinstance(write.value, torch.Tensor) else _compute(write, seen, hidden)
        value = value.to(hidden)
        if write.columns is None:
            if write.match:
                value = _at_norm(value, hidden)
            # A tensor of its own: Falcon adds attention's output to what it was given in place.
            written = hidden + value if write.add else value.expand_as(hidden).clone()
            return written if write.rows is None else torch.where(_each(write.rows, hidden), written, hidden)
        where = (torch.arange(len(hidden), device=hidden.device).unsqueeze(1), write.columns.to(hidden.device))
        if write.match:
            value = _at_norm(value, hidden[where])
        written = hidden.index_put(where, value, accumulate=write.add)
        return written if write.rows is None else torch.where(_each(write.rows, hidden), written, hidden)

    return touch


def _each(rows: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Which rows, against `[B, S, d]`."""
    return rows.to(hidden.device).view(-1, 1, 1)


def _compute(write: Write, seen: Mapping[str, torch.Tensor], hidden: torch.Tensor) -> torch.Tensor:
    """The value of a computed edit, from what this pass has read so far."""
    assert not isinstance(write.value, torch.Tensor)
    flowing = {str(site): hidden if site == write.site else seen.get(str(site)) for site in write.reads}
    given = {}
    for name, found in flowing.items():
        if found is None:
            why = f"this model has not reached it yet when {write.site} is computed"
            raise BadInput("reads", name, "Read a site below.", why=why)
        if write.columns is None:
            given[name] = found
        else:
            rows = torch.arange(len(found), device=found.device).unsqueeze(1)
            given[name] = found[rows, write.columns.to(found.device)].to(hidden.device)
    value = write.value(given)
    count = hidden.shape[1] if write.columns is None else write.columns.shape[1]
    wanted = (len(hidden), count, hidden.shape[-1])
    if not isinstance(value, torch.Tensor) or not 1 <= value.dim() <= 3:
        shape: object = type(value).__name__ if not isinstance(value, torch.Tensor) else list(value.shape)
        raise BadInput("value", shape, f"Let it give {list(wanted)}.", why=f"what the edit at {write.site} computes")
    if value.dim() < 3:
        value = value.reshape(-1, 1, value.shape[-1])
    if any(size not in (1, full) for size, full in zip(value.shape[:2], wanted, strict=False)) or (
        value.shape[2] != wanted[2]
    ):
        fix = f"Let it give {list(wanted)}; rows and columns may be 1."
        raise BadInput("value", list(value.shape), fix, why=f"what the edit at {write.site} computes")
    return value.expand(wanted)


def _at_norm(value: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(value, dim=-1) * hidden.norm(dim=-1, keepdim=True)


def _reader(key: str, found: dict[str, torch.Tensor], columns: torch.Tensor | None, last: bool) -> Touch:
    def touch(hidden: torch.Tensor) -> None:
        if columns is None:
            found[key] = hidden.clone()  # Falcon adds attention's output to the MLP's in place
        else:
            rows = torch.arange(len(hidden), device=hidden.device).unsqueeze(1)
            found[key] = hidden[rows, columns.to(hidden.device)]
        if last:
            raise _Reached(found)

    return touch


@contextmanager
def editing(model: PreTrainedModel, writes: Sequence[Write]) -> Iterator[None]:
    """Inside, every forward pass of the model carries the writes; those at one site in their order.

    What a computed write reads at a site is what flows on from there, all writes included.
    """
    seen: dict[str, torch.Tensor] = {}
    touches = [(write.site, _writer(write, seen)) for write in writes]
    read = {site for write in writes for site in write.reads if site != write.site}
    touches += [(site, _reader(str(site), seen, None, last=False)) for site in read]
    with taking_turns(model), ExitStack() as hooks:
        # In the order of the pass: of a model without a norm before its MLP, one module has two sites.
        for site, touch in sorted(touches, key=lambda at: at[0]):
            for remove in _attach(locate(model, site), touch):
                hooks.callback(remove)
        yield


@contextmanager
def reading(
    model: PreTrainedModel, sites: Sequence[Site], columns: torch.Tensor | None = None, cut: bool = False
) -> Iterator[dict[str, torch.Tensor]]:
    """Inside, a forward pass fills the yielded dict: name of the site -> `[B, S, d]`, or `[B, K, d]` at `columns`.

    With `cut`, the pass ends at the highest site, and so does the `with` body: nothing after the forward call in the
    body runs. Gradients are kept as they come.
    """
    found: dict[str, torch.Tensor] = {}
    with taking_turns(model), ExitStack() as hooks:
        for site in sorted(sites):
            reader = _reader(str(site), found, columns, last=cut and site == max(sites))
            for remove in _attach(locate(model, site), reader):
                hooks.callback(remove)
        try:
            yield found
        except _Reached as reached:
            if reached.args[0] is not found:  # an outer reader's cut: let it end the outer body too
                raise


class Seen(NamedTuple):
    """What one module of a block took in and gave out in one pass, where that has the shape of the residual stream, or
    has it but for coming without rows (`flat`)."""

    path: str  # within the block; "" is the block itself
    module: torch.nn.Module
    taken: torch.Tensor | None
    given: torch.Tensor | None
    flat_taken: bool = False
    flat_given: bool = False


@contextmanager
def watching(
    model: PreTrainedModel, blocks: Iterable[torch.nn.Module], shape: torch.Size
) -> Iterator[list[list[Seen]]]:
    """Inside, a forward pass fills a list per block with what its modules did, in the order in which they finished.

    Args:
        model: the model that is run.
        blocks: the blocks to watch.
        shape: `[B, S, d]` of the residual stream; what has another shape is not kept.
    """
    blocks = [*blocks]
    record: list[list[Seen]] = [[] for _ in blocks]

    flat = torch.Size([shape[0] * shape[1], shape[2]])

    def kept(values: Any) -> tuple[torch.Tensor | None, bool]:
        first = next((v for v in values if isinstance(v, torch.Tensor)), None)
        if first is None or first.shape not in (shape, flat):
            return None, False
        return first.detach().clone().view(shape), first.shape == flat

    def watch(seen: list[Seen], path: str, module: torch.nn.Module) -> RemovableHandle:
        def after(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            taken, flat_taken = kept([*args, *(v for v in kwargs.values() if _is_stream(v))])
            given, flat_given = kept(output if isinstance(output, (tuple, list)) else [output])
            seen.append(Seen(path, module, taken, given, flat_taken, flat_given))

        return module.register_forward_hook(after, with_kwargs=True)

    with taking_turns(model), ExitStack() as hooks:
        for seen, block in zip(record, blocks, strict=True):
            for path, module in block.named_modules():
                hooks.callback(watch(seen, path, module).remove)
        yield record
