"""Rows whose folder says something else than it holds: one line, before anything is computed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from lens_runs import rows_folder

from consistency_lens import cli
from consistency_lens.activations import Activations, CorruptShard
from consistency_lens.activations.manifest import FILES, SEAL, sealed
from consistency_lens.errors import BadInput

META, STATISTICS = "extraction.json", "statistics.safetensors"
SHARD = {"split": "train", "rows": 1, "bytes": 1, "checksum": "0" * 32}


def change(field: str, value: object) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        said = {k: v for k, v in json.loads((folder / META).read_text()).items() if k not in (FILES, SEAL)}
        *way, last = field.split(".")
        inner = said
        for name in way:
            inner = inner[name]
        inner[last] = value
        (folder / META).write_text(json.dumps(sealed(folder, said)))  # whoever changes it can seal it again

    return spoil


def cut(name: str, length: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length]) and None


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no statistics": (lambda folder: (folder / STATISTICS).unlink(), "statistics.safetensors is"),
    "cut statistics": (cut(STATISTICS, 100), "statistics.safetensors is changed"),
    "empty statistics": (cut(STATISTICS, 0), "statistics.safetensors is"),
    "a cut record": (cut(META, 200), "extraction.json is damaged"),
    "a text for a number": (change("highest_token_id", "95"), "highest_token_id='95', expected a whole number"),
    "an unknown dtype": (change("dtype", "float13"), "dtype='float13', expected one of float16, float32"),
    "a list for an origin": (change("provenance", []), "extraction.json is damaged"),
    "a text for sites": (change("provenance.sites", "embed"), "provenance.sites='embed', expected a list"),
    "a dtype nobody knows": (change("provenance.dtype", "float13"), "provenance.dtype='float13', expected one of"),
    "a shard elsewhere": (change("shards", [SHARD | {"file": "../../x"}]), "expected a file such as train/data-00000"),
    "other counts": (change("splits.train.rows", 7), "extraction.json is changed"),
}


@pytest.mark.parametrize("how", SPOILED)
def test_it_is_one_line(how: str, tmp_path: Path) -> None:
    folder = shutil.copytree(rows_folder("llama"), tmp_path / "rows")
    Activations.load(folder)
    spoil, said = SPOILED[how]
    spoil(folder)
    with pytest.raises((BadInput, CorruptShard)) as caught:
        Activations.load(folder)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        *[["explain", "--lens", "x" * 300, "w1"], ["evaluate", "--lens", f"a/{'x' * 300}/b", "--activations", "rows"]],
        *[["train", "--activations", "x" * 300], ["extract", "--train_file", "x" * 300, "--model_name_or_path", "m"]],
        *[["extract", "--model_name_or_path", "x" * 300], ["--config", "x" * 300], ["--output_dir", "é" * 200]],
        *[["publish", "--lens", "y", "--repo_id", "x" * 300], ["--resume_from_checkpoint", "x/" * 3000]],
    ],
)
def test_a_name_that_no_file_can_have_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words, "--use_cpu"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and "Use a shorter name" in said and len(said) < 400


def test_from_python_too() -> None:
    from consistency_lens import AutoLens

    with pytest.raises(BadInput, match=r"^lens='x+…': a part of it has 300 bytes"):
        AutoLens.from_pretrained("x" * 300)
    with pytest.raises(BadInput, match=r"^activations=.*shorter name"):
        Activations.load("x" * 300)
