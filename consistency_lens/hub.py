"""The one door to the Hub: what goes there, what comes from there, and the messages where that does not work.

No message of this file holds a token: not the one that was given, not the one of this machine, not one that a
server sends back in its answer.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypedDict, Unpack

from huggingface_hub import HfApi, get_token, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RevisionNotFoundError,
)

from . import leaks
from .errors import BadInput

LAST_CHECKPOINT = "last-checkpoint"
# What a lens is made of. None of it can hold code: what else a repository has is not even downloaded.
LENS_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model")
OTHER_STAGES = (f"{LAST_CHECKPOINT}/*", "checkpoint-*", "ema.safetensors")
BESIDE_THE_LENS = (*OTHER_STAGES, "report/*")
# What people look at beside it: samples and pictures. As little of that can hold code.
SHOWN_WITH_IT = ("*.parquet", "*.png")
OF_A_REPORT = ("report/*.json", "report/*.png")

STAGED = "_push-"  # how folders begin in which files lie ready to be sent

LOG_IN = "Log in with `hf auth login`, set HF_TOKEN, or give a token."
_GO_ON = "Run the same again: what has arrived is not sent again."
_TOKEN = re.compile(r"\b(?:hf|api_org)_\w{16,}|(?<=bearer )\S+", flags=re.IGNORECASE)
_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")
_NO_ROOM = re.compile(r"storage|quota|billing|payment", flags=re.IGNORECASE)


class Reach(TypedDict, total=False):
    """How files of the Hub are reached, in the words of transformers.

    Args:
        cache_dir: where downloads are kept. Default: the cache of this machine.
        local_files_only: take what the cache holds, and ask no Hub.
    """

    cache_dir: str | Path | None
    local_files_only: bool


def redacted(text: str, *tokens: str | None) -> str:
    """The text without these tokens, without those in the environment, and without what looks like one."""
    known = {*tokens, os.environ.get("HF_TOKEN"), os.environ.get("HUGGING_FACE_HUB_TOKEN")}
    for token in sorted(filter(None, known), key=len, reverse=True):
        text = text.replace(token, "***")
    return _TOKEN.sub("***", text)


def require_token(token: str | None = None) -> str:
    """The token that was given, or this machine's; raise where there is none, before anything slow."""
    found = token or get_token()
    if not found:
        raise BadInput("hub_token", None, LOG_IN, why="the Hub takes nothing without a token")
    return found


def download_file(
    repo: str,
    name: str,
    revision: str | None = None,
    token: str | None = None,
    field: str = "lens",
    kind: str = "model",
    **reach: Unpack[Reach],
) -> Path:
    """One file, from the cache where the Hub cannot be reached. The folder it lies in has the name of the commit."""
    # Not `hf_hub_download`: without a network that tries for half a minute before it looks into the cache.
    path = download(repo, revision, token, field, [name], [], kind, **reach) / name
    if not path.is_file():
        raise BadInput(field, repo, "Check the id and the revision.", why=f"the repository holds no {name}")
    return path


def download(
    repo: str,
    revision: str | None = None,
    token: str | None = None,
    field: str = "lens",
    allow: Sequence[str] = LENS_FILES,
    ignore: Sequence[str] = BESIDE_THE_LENS,
    kind: str = "model",
    **reach: Unpack[Reach],
) -> Path:
    """The files of a repository that match, from the cache where the Hub cannot be reached; returns the folder."""
    token = token or get_token()
    with plainly(field, repo, token):
        wanted, unwanted = list(allow), list(ignore)
        folder = snapshot_download(
            repo,
            revision=revision,
            token=token,
            repo_type=kind,
            allow_patterns=wanted,
            ignore_patterns=unwanted,
            **reach,
        )
        return Path(folder)


def create(
    repo: str,
    token: str | None = None,
    private: bool | None = None,
    kind: str = "model",
    revision: str | None = None,
    field: str = "repo_id",
) -> str:
    """A repository to write to, new or there already, and its branch; returns its full id."""
    token = require_token(token)
    with plainly(field, repo, token, writing=True):
        api = HfApi(token=token)
        sdk = "gradio" if kind == "space" else None
        made = api.create_repo(repo, private=private, repo_type=kind, exist_ok=True, space_sdk=sdk).repo_id
        if revision is not None:
            api.create_branch(made, branch=revision, repo_type=kind, exist_ok=True)
        return made


def has_file(repo: str, name: str, token: str | None = None, revision: str | None = None, kind: str = "model") -> bool:
    token = token or get_token()
    with plainly("repo_id", repo, token):
        return HfApi(token=token).file_exists(repo, name, revision=revision, repo_type=kind)


def tagged(tag: str, most: int, token: str | None = None) -> list[tuple[str, list[str]]]:
    """Ids and tags of the models with a tag, those that are downloaded most first."""
    token = token or get_token()
    with plainly("tag", tag, token):
        found = HfApi(token=token).list_models(filter=tag, sort="downloads", limit=most)
        return [(each.id, list(each.tags or [])) for each in found]


def upload(
    folder: Path,
    repo: str,
    message: str,
    token: str | None = None,
    kind: str = "model",
    revision: str | None = None,
    delete: Sequence[str] = (),
    field: str = "repo_id",
) -> str:
    """All of a folder in one go; files there that match `delete` and are not among them go. Returns the address."""
    token = require_token(token)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    require_clean(files, repo, token, field)
    with plainly(field, repo, token, writing=True):
        done = HfApi(token=token).upload_folder(
            repo_id=repo,
            folder_path=folder,
            repo_type=kind,
            revision=revision,
            commit_message=message,
            delete_patterns=list(delete) or None,
        )
        return str(done.commit_url)


def require_clean(files: Mapping[str, Path], repo: str, token: str | None = None, field: str = "repo_id") -> None:
    """Raise where one of the files that shall be sent, by their names there, holds a path of this machine or a
    token."""
    known = (token, get_token(), *(os.environ.get(name) for name in _SECRETS))
    found = leaks.find(files, leaks.Watch(tuple(secret for secret in known if secret and len(secret) > 7)))
    if found is not None:
        fix = "Take it out of that file, then publish again; load a lens of before and save it again."
        raise BadInput(field, repo, fix, redacted(str(found), token))


@contextmanager
def plainly(field: str, repo: str, token: str | None = None, writing: bool = False) -> Iterator[None]:
    """Inside, whatever the Hub, its client or the network has to complain of becomes a `BadInput` about `field`."""
    try:
        yield
    except BadInput:
        raise
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        why, fix = _explained(error, repo, writing)
        # Not `from error`: its trace would show what the server sent.
        raise BadInput(field, repo, redacted(fix, token), redacted(why, token)) from None


def _explained(error: BaseException, repo: str, writing: bool) -> tuple[str, str]:
    """What is wrong, and what to do about it."""
    chain = list(_causes(error))
    for cause in chain:
        match cause:
            case LocalEntryNotFoundError() if cause.__cause__ is None:  # nobody was asked
                return "the cache does not hold it", "Download it first, or leave out local_files_only."
            case GatedRepoError():
                return "its owner gives access on request", f"Ask for it on the page of {repo}. {LOG_IN}"
            case RevisionNotFoundError():
                return "it has no such revision", "Check the branch, tag or commit."
            case OfflineModeIsEnabled():
                return "the Hub is switched off, and the cache does not hold it", "Unset HF_HUB_OFFLINE."
            case HFValidationError():
                return str(cause), "Name a folder that is there, or write an id as in owner/name."
            case RemoteEntryNotFoundError():
                return "the Hub has the repository, but not this file in it", "Check the id and the revision."
            case HfHubHTTPError():
                answer = cause.server_message or cause.response.headers.get("X-Error-Message") or ""
                return _answered(cause.response.status_code, answer, repo, writing)
    if any(isinstance(cause, HTTPError) for cause in chain):
        return f"the Hub cannot be reached ({type(chain[-1]).__name__})", f"Check the connection. {_GO_ON}"
    if local := next((cause for cause in chain if isinstance(cause, OSError) and cause.errno is not None), None):
        full = local.errno in (errno.ENOSPC, errno.EDQUOT)
        return str(local), f"Make room on this machine's disk. {_GO_ON}" if full else "Mend what it names."
    return str(error), "Check the id, and that this machine is online."


def _answered(status: int, answer: str, repo: str, writing: bool) -> tuple[str, str]:
    """The same, of an answer with a status."""
    heard = f"the Hub says {status}" + (f": {answer}" if answer else "")
    owner = repo.partition("/")[0] if "/" in repo else "your account"
    match status:
        case 402 | 507:
            return heard, _make_room(owner)
        case 403 if _NO_ROOM.search(answer):
            return heard, _make_room(owner)
        case 413:
            return heard, "Upload less at once, or a smaller lens (trainable=lora holds no copy of the frozen model)."
        case 401 if writing:
            return heard, "The token is not valid (any more): make one with write access, then `hf auth login`."
        case 403 if writing:
            return heard, f"Use a token with write access to {owner}, or a repository of your own."
        case 401 | 403 | 404:
            return "there is no such repository, or it is private", f"Check the id. If it is private: {LOG_IN}"
        case 409 | 412:
            return heard, f"Somebody else changed it in the meantime. {_GO_ON}"
        case 429:
            return heard, f"Wait a few minutes. {_GO_ON}"
        case _ if status >= 500:
            return heard, f"The Hub has trouble; wait a while. {_GO_ON}"
    return heard, "Mend what it names."


def _make_room(owner: str) -> str:
    return f"{owner} has no room left: delete what is not needed there, publish it openly, or ask the Hub for more."


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def staged(files: Mapping[str, Path]) -> Iterator[Path]:
    """A folder of links to these files under these names, for as long as they are uploaded. Whatever becomes of this
    process, nothing large and nothing beside the files is left."""
    with TemporaryDirectory(prefix="consistency-lens-") as name:
        yield _linked(files, Path(name), lambda source, path: path.symlink_to(source.resolve()))


def sweep(folder: Path) -> None:
    """Take away what a process that was killed while it pushed has left behind."""
    for left in folder.glob(f"{STAGED}*"):
        shutil.rmtree(left)


def stage(files: Mapping[str, Path], folder: Path) -> Path:
    """Link files into a folder, or copy them where links are not to be had. They stay, even if the originals go."""
    return _linked(files, folder, lambda source, path: os.link(source.resolve(), path))


def _linked(files: Mapping[str, Path], folder: Path, link: Callable[[Path, Path], None]) -> Path:
    for name, source in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            link(source, path)
        except OSError:
            shutil.copyfile(source, path)
    return folder
