"""Weights that lie spread over several processes: what each process holds, and how they are put together and filled.

A parameter is whole (plain torch, DDP, ZeRO 1 and 2), a `DTensor` (FSDP2) or partitioned by ZeRO-3.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn


def is_spread(parameter: Tensor) -> bool:
    """Whether each process holds only a part of it."""
    return _is_dtensor(parameter) or _is_partitioned(parameter)


@torch.no_grad()
def gathered(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The whole tensors, to be written to a file. Where weights are spread all processes have to call, tensors come to
    the CPU, and only the main process gets any."""
    found = {}
    for name, parameter in parameters.items():
        if not is_spread(parameter):
            found[name] = parameter.detach().contiguous()
            continue
        whole = _whole(parameter)
        if PartialState().is_main_process:
            found[name] = whole
    return found


def writes(parameters: Mapping[str, nn.Parameter]) -> bool:
    """Whether this process is the one that writes: of whole weights it is the one that was asked."""
    return PartialState().is_main_process or not any(is_spread(p) for p in parameters.values())


@torch.no_grad()
def fill(parameter: nn.Parameter, tensor: Tensor) -> None:
    """Copy a whole tensor into a parameter. Where weights are spread all processes have to call, with the same one."""
    if _is_dtensor(parameter):
        shard_of(parameter).copy_(_like(parameter, tensor.to(parameter.device)).to_local())
    elif _is_partitioned(parameter):
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters

        with GatheredParameters([parameter], modifier_rank=0):
            if PartialState().is_main_process:
                parameter.copy_(tensor)
    else:
        parameter.copy_(tensor)


@torch.no_grad()
def shard_of(parameter: Tensor) -> Tensor:
    """What this process holds of it, not a copy."""
    if _is_dtensor(parameter):
        held: Any = parameter
        return held.to_local()
    if _is_partitioned(parameter):
        partitioned: Any = parameter
        return partitioned.ds_tensor.data
    return parameter.data


def local(parameter: Tensor) -> Tensor:
    """What this process holds of a parameter that may be a `DTensor`, with its gradient."""
    if not _is_dtensor(parameter):
        return parameter
    held: Any = parameter
    part: Tensor = held.to_local()
    return part


@torch.no_grad()
def spread(module: nn.Module, whole: Sequence[str], device: torch.device, processes: int) -> None:
    """Deal out what a module trains over all processes, which have the same weights: each keeps a share of the rows of
    every parameter, and a whole copy of those with the given names."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh(device.type, (processes,))
    for owner in module.modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            if parameter.requires_grad:
                layout: Any = Replicate() if name in whole else Shard(0)
                held = distribute_tensor(parameter.data, mesh, [layout], src_data_rank=None)
                owner.register_parameter(name, nn.Parameter(held))


@torch.no_grad()
def exchange(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Swap the contents of what this process holds and of tensors of the same shape."""
    for name, value in values.items():
        parameter = parameters[name]
        held = shard_of(parameter)
        before = held.clone()
        held.copy_(value)
        value.copy_(before)


def held_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state, as this process holds it: plain tensors, which a file can carry."""
    found = optimizer.state_dict()
    state = {
        number: {name: shard_of(value) if isinstance(value, Tensor) else value for name, value in kept.items()}
        for number, kept in found["state"].items()
    }
    return {"state": state, "param_groups": found["param_groups"]}


@torch.no_grad()
def restore_state(optimizer: torch.optim.Optimizer, held: dict[str, Any]) -> None:
    """The other way round, laid out as the parameters are. What had no gradient yet has no state."""
    optimizer.load_state_dict(held)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            kept = optimizer.state.get(parameter, {})
            for name, value in kept.items():
                if isinstance(value, Tensor) and value.dim() and not is_spread(value):
                    kept[name] = _spread_like(parameter, value)


def _spread_like(parameter: Any, held: Tensor) -> Any:
    from torch.distributed.tensor import DTensor

    layout = {"shape": parameter.shape, "stride": parameter.stride()}
    return DTensor.from_local(held, parameter.device_mesh, parameter.placements, run_check=False, **layout)


def _whole(parameter: Any) -> Tensor:
    if _is_dtensor(parameter):
        return parameter.full_tensor().cpu()
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters

    with GatheredParameters([parameter]):
        return parameter.detach().cpu().clone()


def _like(parameter: Any, tensor: Tensor) -> Any:
    """The tensor, which every process has, laid out as the parameter."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)


def _is_dtensor(parameter: Tensor) -> bool:
    if "torch.distributed.tensor" not in sys.modules:  # slow to import, and then nobody has made one
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(parameter, DTensor)


def _is_partitioned(parameter: Tensor) -> bool:
    if "deepspeed.runtime.zero.partition_parameters" not in sys.modules:
        return False
    from deepspeed.runtime.zero.partition_parameters import is_zero_param

    return bool(is_zero_param(parameter))
