"""`SavedModel`: a model in several files, each with names of its own; to a folder, to the Hub, and back."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, Unpack

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME

from ... import hub
from ...card import RESULTS
from ...errors import BadInput
from ...files import replacing
from ...frozen.loading.whole import LARGEST_WEIGHT, refusing_damage
from ...schema import plain, read_json, record, require, require_place
from ..configuration import OF_A_LENS, SAVE_AGAIN, LensConfig
from ..engines.shards import fill, gathered, writes

Files = Mapping[str, Mapping[str, nn.Parameter]]
HEADS, REPORT = "model.safetensors", "report"
# Beside its weights. What else lies in its folder is nobody's business.
_OF_A_LENS = [CONFIG_NAME, "adapter_config.json", "training.json", "history.json", "samples.parquet", "README.md"]
_OF_A_LENS += [RESULTS, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
_OF_A_LENS += ["chat_template.jinja", "vocab.json", "vocab.txt", "merges.txt", "*.model"]
_OF_A_REPORT = ["report.json", "report.md", "*.png"]
# What was measured on a lens, and says nothing about the next one in its place.
MEASURED = (f"{REPORT}/*", RESULTS, "samples.parquet", "history.json", "training.json")
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_OF_THE_SAVING = {"architectures", "dtype", "transformers_version", "_name_or_path"}
_NO_LENS = "Give the folder of a lens, or the id of one on the Hub."


class SavedModel(PreTrainedModel):
    """What a lens and a part of one have in common: how they are saved and published."""

    config_class = LensConfig
    config: LensConfig
    base_model_prefix = ""

    @property
    def folders(self) -> tuple[str, ...]:
        """Those that hold a part's weights and nothing else: what an earlier upload left in them goes."""
        return ()

    @property
    def outdated(self) -> list[str]:
        """What this takes the place of in a repository, as patterns."""
        return [f"{folder}/*" for folder in self.folders]

    def files(self) -> dict[str, dict[str, nn.Parameter]]:
        """All that is saved: file -> name in the file -> parameter. The frozen model's own weights are in none."""
        raise NotImplementedError

    def save_parts(self, folder: Path) -> None:
        """What says how to read the files."""

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike[str],
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Each part in its own folder, own heads at the root. Every file is swapped in whole.

        Args:
            save_directory: where.
            push_to_hub: publish it, too, as `repo_id`; by default under the folder's name.
        """
        folder = Path(save_directory)
        if not save_files(self.files(), folder):
            return
        self.save_parts(folder)
        self.config.save_pretrained(folder)
        if push_to_hub:
            names = ("revision", "private", "token", "commit_message")
            self.push_to_hub(repo_id or folder.resolve().name, **{n: kwargs[n] for n in names if n in kwargs})

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        revision: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload a lens",
    ) -> str:
        """Publish it, all parts in one commit; returns the address of that commit.

        Args:
            repo_id: as in owner/name; without an owner it is yours. Created where it is not there.
            revision: branch to write to, created where it is not there.
            private: for a new repository.
            token: with write access. Default: of this machine.
            commit_message: what the history says.
        """
        repo = hub.create(repo_id, token, private, revision=revision)
        with TemporaryDirectory(prefix="consistency-lens-") as name:
            self.prepare_upload(Path(name), repo, revision, token)
            self.save_pretrained(name)
            return hub.upload(Path(name), repo, commit_message, token, revision=revision, delete=self.outdated)

    def prepare_upload(self, folder: Path, repo: str, revision: str | None, token: str | None) -> None:
        """What of the repository has to lie in the folder before this is saved into it."""


def lens_files(folder: Path, config: LensConfig) -> dict[str, Path]:
    """Of a folder what belongs to the lens, by its name there: no optimizer, no log, nothing that can hold code."""
    parts = {Path(file).parent for file in config.weight_files} | {Path()}
    patterns = [*config.weight_files, *((part / name).as_posix() for part in parts for name in _OF_A_LENS)]
    patterns += [*config.own_files, *(f"{REPORT}/{name}" for name in _OF_A_REPORT)]
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    return {path.relative_to(folder).as_posix(): require_inside(path, folder) for path in paths}


def require_inside(path: Path, folder: Path) -> Path:
    """The path; raise where it is a link to what lies outside of the folder, and may be anything on this machine."""
    homes = [folder.resolve()]
    if homes[0].parent.name == "snapshots":  # the Hub's cache keeps the files of a snapshot beside it
        homes.append(homes[0].parent.with_name("blobs"))
    if not any(path.resolve().is_relative_to(home) for home in homes):
        fix = "Put the file itself in its place."
        raise BadInput("lens", str(folder), fix, why=f"{path.name} is a link that leads out of it")
    return path


def open_folder(
    place: str | os.PathLike[str],
    kind: type[LensConfig],
    revision: str | None = None,
    token: str | None = None,
    subfolder: str = "",
    **reach: Unpack[hub.Reach],
) -> Path:
    """The folder of a lens, downloaded where it is none of this machine. Of what is no lens, nothing large is."""
    require_place(str(place), "lens")
    folder, inside = Path(place), inner_folder(subfolder)
    if (folder / inside / CONFIG_NAME).is_file():
        require_lens(folder / inside / CONFIG_NAME, place)
        return folder / inside
    if folder.is_dir():
        raise BadInput("lens", str(place), _NO_LENS, why="there is no lens in such a folder")
    found, commit = fetch_config(str(place), revision, token, inside, **reach)
    require_lens(found, place)
    return fetch_folder(str(place), kind, commit, token, inside, **reach)


def fetch_config(
    repo: str, revision: str | None, token: str | None, inside: str = "", **reach: Unpack[hub.Reach]
) -> tuple[Path, str]:
    """The configuration of a lens on the Hub, and its commit: the weights of a later one may not fit to it."""
    name = f"{inside}/{CONFIG_NAME}" if inside else CONFIG_NAME
    found = hub.download_file(repo, name, revision, token, **reach)
    return found, found.parents[len(Path(inside).parts)].name


def fetch_folder(
    repo: str,
    kind: type[LensConfig],
    revision: str | None,
    token: str | None,
    inside: str = "",
    **reach: Unpack[hub.Reach],
) -> Path:
    """The files of a lens of this kind on the Hub, in the repository or in a folder of it."""
    before = f"{inside}/" if inside else ""
    wanted, unwanted = (*hub.LENS_FILES, *kind.own_files), (*hub.BESIDE_THE_LENS, *kind.other_files)
    allow, ignore = ([before + each for each in some] for some in (wanted, unwanted))
    return hub.download(repo, revision, token, allow=allow, ignore=ignore, **reach) / inside


def inner_folder(subfolder: str) -> str:
    """A folder within a lens's folder or repository; raise where it leads out of it, or says more than a name."""
    path = PurePosixPath(subfolder)
    if path.is_absolute() or ".." in path.parts or any(sign in subfolder for sign in "*?[\\"):
        raise BadInput("subfolder", subfolder, "Name a folder within the lens's, as in layers/12.")
    return "" if path == PurePosixPath() else path.as_posix()


def require_lens(file: Path, place: str | os.PathLike[str]) -> dict[str, Any]:
    """What a configuration says; raise unless it is that of a lens."""
    said: dict[str, Any] = read_json(file, plain, "lens", str(place), SAVE_AGAIN)
    if not isinstance(said, dict) or not said.get("provenance"):
        raise BadInput("lens", str(place), _NO_LENS, why="its config.json names no frozen model")
    require(said, record(OF_A_LENS), "lens", str(place), SAVE_AGAIN, file.name)
    return said


def config_in(folder: Path, kind: type[LensConfig]) -> Any:
    """The configuration of a lens; raise where a field has a type or a value that no lens has."""
    with refusing_damage(folder.name, "lens", "Save or download it again: its config.json is damaged."):
        return kind.from_pretrained(folder)


def save_files(files: Files, folder: Path) -> bool:
    """Write tensors as safetensors, nothing else. Of weights that are spread over processes all have to call, and one
    writes; returns whether it is this one."""
    writing = all(writes(parameters) for parameters in files.values())
    for file, parameters in files.items():
        tensors = gathered(parameters)
        if not writing:
            continue
        with replacing(folder / file, folder / f"{file}.part") as part:
            save_file(tensors, part, metadata={"format": "pt"})
    return writing


@torch.no_grad()
def load_files(files: Files, folder: Path, beside: str | None = None) -> None:
    """Saved tensors into the parameters of the same names; raise where they are not what the parameters want.

    Args:
        files: as `SavedModel.files`.
        folder: where they lie.
        beside: names of heads that begin so are those of another part, and no matter here.
    """
    for file, parameters in files.items():
        tensors = read_tensors(folder, file)
        if file == HEADS and beside:
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(beside)}
        require_fitting(tensors, parameters, folder, file)
        for name, parameter in parameters.items():
            fill(parameter, tensors[name])


def saved_shapes(folder: Path, file: str) -> dict[str, tuple[int, ...]]:
    """The tensors of a file by name, without reading any."""
    with _opening(folder, file), safe_open(folder / file, "pt") as tensors:
        names = tensors.keys()
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in names}


def require_shapes(
    wanted: Mapping[str, tuple[int, ...]], saved: Mapping[str, tuple[int, ...]], folder: Path, file: str
) -> None:
    """Raise unless a file holds these tensors."""
    for name, shape in wanted.items():
        if saved.get(name) != shape:
            there = f"{list(saved[name])} there" if name in saved else "missing there"
            why = f"{file} differs in {name}, {there} and {list(shape)} by its {CONFIG_NAME}"
            raise BadInput("lens", folder.name, "Load it with the configuration it was saved with.", why)


def require_fitting(
    tensors: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.Tensor], folder: Path, file: str
) -> None:
    """Raise where a file lacks a tensor, has one too many, or one of another shape, of no number or of whole ones."""
    odd = {name: "it is not there" for name in parameters.keys() - tensors.keys()}
    odd |= {name: "nothing here has that name" for name in tensors.keys() - parameters.keys()}
    for name in tensors.keys() & parameters.keys():
        tensor, shape = tensors[name], parameters[name].shape
        if tensor.shape != shape:
            odd[name] = f"its shape is {list(tensor.shape)} and should be {list(shape)}"
        elif tensor.dtype not in _FLOATS:
            odd[name] = f"its numbers are {str(tensor.dtype).removeprefix('torch.')} and should be floats"
        elif tensor.numel() and not bool((torch.stack(tensor.aminmax()).abs() <= LARGEST_WEIGHT).all()):
            odd[name] = f"it holds numbers that are not finite, or larger than {LARGEST_WEIGHT:g}"
    if odd:
        name = min(odd)
        fix = "Load it with the configuration it was saved with, or save or download it again."
        raise BadInput("lens", folder.name, fix, f"{file} differs in {name}: {odd[name]}")


def read_tensors(folder: Path, file: str) -> dict[str, torch.Tensor]:
    with _opening(folder, file):
        return load_file(folder / file)


@contextmanager
def _opening(folder: Path, file: str) -> Iterator[None]:
    """Around all that is done with a file of tensors."""
    if not (folder / file).is_file():
        raise BadInput("lens", folder.name, "Save it again: the folder is not whole.", f"{file} is missing")
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise BadInput("lens", folder.name, "Save or download it again.", f"{file} cannot be read: {error}") from error


def fetch_beside(folder: Path, repo: str, revision: str | None, token: str | None) -> None:
    """Put what a repository already has of a lens into a folder, so that a part is added to it."""
    for name in (CONFIG_NAME, HEADS):
        if hub.has_file(repo, name, token, revision):
            shutil.copyfile(hub.download_file(repo, name, revision, token, field="repo_id"), folder / name)


def heads_beside(folder: Path, config: LensConfig, own: str) -> dict[str, nn.Parameter]:
    """The heads that lie in a folder already and are those of another part of the same lens."""
    if not (folder / CONFIG_NAME).is_file() or not (folder / HEADS).is_file():
        return {}
    there = config_in(folder, type(config))
    if _what_it_is(there) != _what_it_is(config):
        fix = "Save the part to a folder or repository of its own."
        raise BadInput("save_directory", folder.name, fix, why="there is another lens")
    return {name: nn.Parameter(t) for name, t in read_tensors(folder, HEADS).items() if not name.startswith(own)}


def _what_it_is(config: LensConfig) -> dict[str, Any]:
    """A configuration without what says how and by what it was saved."""
    said = json.loads(config.to_json_string(use_diff=False))
    return {name: value for name, value in said.items() if name not in _OF_THE_SAVING}
