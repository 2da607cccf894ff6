"""Formats of the families: exports of circuit-tracer, codes on a wire, and the folder of a wire's lens."""

from __future__ import annotations

import shutil
import struct
import sys
import zlib
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

from consistency_lens import BadInput
from consistency_lens.soft.bytes.wire import Wire
from consistency_lens.soft.modeling import LatentWire
from consistency_lens.sparse.modeling import CrosslayerTranscoder
from consistency_lens.sparse.use.circuit_tracer import export

from .lenses import home, shared_lm, small_lens
from .mutations import spoil_bytes, spoil_json, spoiled

sys.path.insert(0, str(Path(__file__).parents[1] / "soft"))

from wire_runs import text_batch, wire_lens, wire_models  # isort: skip

HEADER = "<4sBBHHBHI"  # as docs and module have it: magic, version, bits, group, d_z, lens id, meta, M
TEXTS = ["w1 w2 w3 w4", "w5", "", "w1 " * 40]


@cache
def _saved_export(nonlinearity: str) -> Path:
    return export(small_lens(nonlinearity=nonlinearity), home() / f"circuit-tracer-{nonlinearity}")


def circuit_tracer(folder: Path, random: Random) -> str:
    """An export whose tensors, files or description are otherwise, with a model and without one."""
    place = shutil.copytree(_saved_export(random.choice(["jumprelu", "relu"])), folder / "export")
    path = random.choice(sorted(place.iterdir()))
    match random.random():
        case roll if roll < 0.25:
            said = spoiled(yaml.safe_load((place / "config.yaml").read_text()), random)
            try:
                (place / "config.yaml").write_text(yaml.safe_dump(said), "utf-8")
            except (ValueError, RecursionError, UnicodeError, yaml.YAMLError) as error:
                raise BadInput("config", "none", "There is no such YAML.", str(error)[:100]) from error
            done = f"config.yaml: {str(said)[:500]}"
        case roll if roll < 0.65 and path.suffix == ".safetensors":
            done = _other_tensor(path, random)
        case roll if roll < 0.75:
            path.unlink()
            done = f"{path.name} is gone"
            if random.random() < 0.5:
                path.mkdir()
                done = f"{path.name} is a folder"
        case roll if roll < 0.85:
            other = place / random.choice(["W_enc_9.safetensors", "W_dec_x.safetensors", "W_enc_-1.safetensors", "x"])
            shutil.copy(_saved_export("relu") / "W_enc_1.safetensors", other)
            done = f"{other.name} lies there too"
        case _:
            done = spoil_bytes(path, random)
    frozen = shared_lm("llama") if random.random() < 0.7 else None
    lens = CrosslayerTranscoder.from_pretrained(place, frozen)
    read = torch.ones(2, lens.config.depth, lens.config.hidden_size)
    assert lens.reconstruct(read).isfinite().all(), "what was taken computes no numbers"
    return done


def _other_tensor(path: Path, random: Random) -> str:
    tensors = load_file(path)
    name = random.choice(sorted(tensors))
    tensor = tensors[name].clone()
    how = random.choice(["number", "dtype", "shape", "gone", "more", "empty"])
    match how:
        case "number":
            tensor.view(-1)[random.randrange(tensor.numel())] = random.choice(
                [float("nan"), float("inf"), -1.0, 0.0, 3e38]
            )
        case "dtype":
            tensor = tensor.to(random.choice([torch.int64, torch.bool, torch.float64, torch.bfloat16, torch.uint8]))
        case "shape":
            tensor = random.choice(
                [tensor.T.contiguous() if tensor.dim() == 2 else tensor[None], tensor[:-1], tensor[None]]
            )
        case "empty":
            tensor = tensor[:0]
    tensors[name] = tensor.contiguous()
    if how == "gone":
        del tensors[name]
    if how == "more":
        tensors["W_skip_0"] = torch.ones(2)
    save_file(tensors, path)
    return f"{path.name}: {name} {how}"


@cache
def lens() -> LatentWire:
    return wire_lens(d_z=16, bits=8, group=8)


def wire(_folder: Path, random: Random) -> str:
    """Bytes of a code that are otherwise, half of them under a checksum that is right."""
    bits, group = random.choice([(16, 0), (8, 8), (6, 5), (4, 16)])
    code = torch.randn(random.randrange(1, 5), 16, generator=torch.Generator().manual_seed(random.randrange(99)))
    data = bytearray(Wire.of(code, bits, max(group, 1), "a lens", {"tokens": 3, "text": "w1"}).to_bytes())
    end = struct.calcsize(HEADER)
    match random.random():
        case roll if roll < 0.3:
            fields: list[Any] = list(struct.unpack(HEADER, data[:end]))
            at = random.randrange(1, len(fields))
            size = struct.calcsize("<" + HEADER[1:].replace("4s", "")[at - 1])
            fields[at] = random.choice([0, 1, 7, 16, 255, 2 ** (8 * size) - 1, 2 ** (8 * size - 1)]) % 2 ** (8 * size)
            data[:end] = struct.pack(HEADER, *fields)
            done = f"field {at}: {fields[at]}"
        case roll if roll < 0.5:
            meta = random.choice([b"{}", b"[1]", b'{"a":NaN}', b'{"a": 1}', b"[" * 5000, b"\xff", b'{"a":{"b":1}}'])
            own = struct.unpack(HEADER, data[:end])
            start = end + own[5]
            data[start : start + own[6]] = meta
            data[:end] = struct.pack(HEADER, *own[:6], len(meta), own[7])
            done = f"meta: {meta[:40]!r}"
        case roll if roll < 0.7:
            at = random.randrange(end, len(data) - 4)
            data[at] = random.choice([0, 127, 128, 255, random.randrange(256)])
            done = f"byte {at}: {data[at]}"
        case roll if roll < 0.85:
            del data[random.randrange(len(data)) :]
            done = f"cut at {len(data)}"
        case _:
            data[random.randrange(len(data)) :] = random.randbytes(random.choice([1, 40, 4000]))
            done = f"noise, {len(data)} bytes"
    if random.random() < 0.5 and len(data) > 4:
        data[-4:] = struct.pack("<I", zlib.crc32(data[:-4]))
        done += ", sealed"
    found = Wire.from_bytes(bytes(data))
    assert found.to_bytes() == bytes(data), "what is read is not what is written"
    assert found.codes().isfinite().all() and found.codes().shape == (found.M, found.d_z)
    lens().from_wire(found, "a lens")
    return done


@cache
def _saved_wire() -> Path:
    folder = home() / "wire"
    lens().save_pretrained(folder)
    return folder


def wire_lens_files(folder: Path, random: Random) -> str:
    """The folder of a wire's lens, in which a record or a file is otherwise; then it compresses a text."""
    place = shutil.copytree(_saved_wire(), folder / "lens")
    path = random.choice(sorted(path for path in place.rglob("*") if path.is_file()))
    match random.random():
        case roll if roll < 0.5:
            done = spoil_json(place / "config.json", random)
        case roll if roll < 0.6 and path.suffix == ".json":
            done = spoil_json(path, random)
        case roll if roll < 0.75 and path.suffix == ".safetensors":
            done = _other_tensor(path, random)
        case roll if roll < 0.85:
            path.unlink()
            done = f"{path.name} is gone"
        case _:
            done = spoil_bytes(path, random)
    found = LatentWire.from_pretrained(place, subject=wire_models())
    code = found.compress(text_batch(found, random.choice(TEXTS)))
    assert code.vectors.isfinite().all(), "what was taken computes no numbers"
    return done
