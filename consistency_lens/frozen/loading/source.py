"""Where a frozen model comes from, settled before any of its weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import CONFIG_NAME, cached_file

from ...errors import BadInput
from .gguf_files import find_gguf, gguf_config, gguf_name, is_gguf, named
from .load import own_code_refused
from .provenance import hash_files
from .whole import refusing_damage

COMMIT = "commit:"  # how the identity of weights on the Hub begins


@dataclass(frozen=True)
class Source:
    """A model that was found.

    Args:
        place: what it was asked for by, in messages.
        named: what any `from_pretrained` of transformers is told to find it.
        config: what it is.
        model_id: what it goes by.
        folder: where its weights lie on this machine; None for one on the Hub.
        file: its GGUF file; None for other formats.
        commit: on the Hub, and behind it the subfolder, as in `<commit>/folder`.
    """

    place: str | Path
    named: dict[str, Any]
    config: PreTrainedConfig
    model_id: str
    folder: Path | None = None
    file: Path | None = None
    commit: str = ""

    def weights(self) -> str:
        """What identifies the weights (see `Provenance`)."""
        if self.file is not None:
            return hash_files([self.file])
        if self.folder is not None:
            return hash_files([*self.folder.glob("*.safetensors"), *self.folder.glob("*.bin")])
        return f"{COMMIT}{self.commit}"


def find_source(
    model_id_or_path: str | Path,
    revision: str | None = None,
    token: str | None = None,
    gguf_file: str | None = None,
    trust_remote_code: bool = False,
    subfolder: str = "",
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Source:
    """A folder of this machine, a repository or a GGUF file; the arguments are those of `FrozenLM.from_pretrained`."""
    reach: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    if gguf_file is not None:
        inside = f"{subfolder}/{gguf_file}" if subfolder else gguf_file
        model_id_or_path, subfolder = f"{model_id_or_path}/{inside}", ""
    if is_gguf(model_id_or_path):
        if subfolder:
            fix = "Write the folder into the path of the file, or name the file as gguf_file."
            raise BadInput("subfolder", subfolder, fix, why=f"{Path(model_id_or_path).name} is a file")
        file = find_gguf(model_id_or_path, revision, **reach)
        return Source(model_id_or_path, named(file), gguf_config(file), gguf_name(model_id_or_path), file=file)
    folder, commit, inside = Path(model_id_or_path), "", _inside(subfolder)
    if folder.is_dir():
        folder = folder / inside
        if not folder.is_dir():
            raise BadInput("subfolder", subfolder, "Name a folder in it.", why=f"{folder.name} is not there")
        where: dict[str, Any] = {"pretrained_model_name_or_path": str(folder) if inside else model_id_or_path}
        model_id = where["pretrained_model_name_or_path"]
    else:
        # A commit from here on: transformers does not say which one it has loaded. Folders of its cache do.
        how = {"revision": revision, "subfolder": inside, **reach}
        known = cached_file(str(model_id_or_path), CONFIG_NAME, **how)
        if known is None:  # an answer that transformers takes for none
            raise OSError(f"no {CONFIG_NAME} was found under that name")
        revision = Path(known).parents[len(Path(inside).parts)].name
        where, model_id = {"pretrained_model_name_or_path": model_id_or_path}, model_id_or_path
        where |= {"subfolder": inside} if inside else {}
        commit = f"{revision}/{inside}" if inside else revision
    where |= {"revision": revision, **reach, "trust_remote_code": trust_remote_code}
    with refusing_damage(model_id_or_path), own_code_refused(model_id_or_path):
        config = AutoConfig.from_pretrained(**where)
    local = None if commit else folder
    return Source(model_id_or_path, where, config, str(model_id), folder=local, commit=commit)


def commit_of(weights: str) -> tuple[str, str]:
    """Of what identifies weights the commit on the Hub, and the folder in it; empty for weights from elsewhere."""
    commit, _, inside = weights.partition(COMMIT)[2].partition("/")
    return commit, inside


def _inside(subfolder: str) -> str:
    """A folder within a folder; raise where it leads out of it."""
    path = Path(subfolder)
    if path.is_absolute() or ".." in path.parts:
        raise BadInput("subfolder", subfolder, "Name a folder within the model's, as in checkpoints/final.")
    return "" if path == Path() else path.as_posix()
