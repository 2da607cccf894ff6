"""`PushingTrainer`: a run that is on the Hub while it goes on.

transformers pushes the root files of a model and no more; here all parts go, in one commit, and a checkpoint with them
if that is wanted.
"""

from __future__ import annotations

import json
import logging
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from ... import hub
from ...errors import BadInput
from ..arguments import LensTrainingArguments
from ..engines.engine_trainer import EngineTrainer
from ..watching.samples import FILE as SAMPLES
from .checkpoint import ARGUMENTS, STATE
from .lens_card import CARD
from .lens_files import lens_files
from .published_card import publish_card

logger = logging.getLogger(__name__)


class PushingTrainer(EngineTrainer):
    """With `hub_strategy` `every_save` the lens is pushed at each save, with `checkpoint` also `last-checkpoint`, from
    which training can go on anywhere; with `all_checkpoints` each under its own name; with `end` nothing but the end.

    What is pushed while training goes on is sent in the background, one save after the other. If that fails, training
    does not: it says why, and the next save is pushed again.
    """

    args: LensTrainingArguments
    hub_model_id: str | None
    push_in_progress: PushInProgress | None
    _sender: ThreadPoolExecutor

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Before anything slow: there is a token, and a repository that it may write to."""
        if not self.is_world_process_zero():
            return
        name = self.args.hub_model_id or Path(self.args.output_dir).resolve().name
        private = self.args.hub_private_repo if private is None else private
        token, field = token or self.args.hub_token, "hub_model_id"
        self.hub_model_id = hub.create(name, token, private, revision=self.args.hub_revision, field=field)
        self.push_in_progress = None
        # One thread: what was saved later arrives later.
        self._sender = ThreadPoolExecutor(max_workers=1, thread_name_prefix="push")
        hub.sweep(Path(self.args.output_dir))

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Save the lens as it is now into `output_dir`, and push it with its card and its table of explanations.

        Returns:
            The address of the commit, or nothing if it is not waited for (`blocking=False`).
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        self._finish_current_push()
        job = (self._staged(Path(self.args.output_dir)), str(commit_message), self._parts(), token, revision)
        if blocking:
            return self._send(*job)
        self._in_background(*job)
        return None

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        strategy, folder = self.args.hub_strategy, Path(checkpoint_folder)
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if busy and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        delete, place = self._parts(), None
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            place = hub.LAST_CHECKPOINT if strategy == HubStrategy.CHECKPOINT else folder.name
            delete.append(f"{place}/*")
        message = f"Training in progress, step {self.state.global_step}"
        self._in_background(self._staged(folder, place), message, delete, None, None)

    def _parts(self) -> list[str]:
        return [f"{part}/*" for part in self.lens.folders]

    def _staged(self, folder: Path, place: str | None = None) -> Path:
        """The lens in a folder, ready to be sent; and all of that folder once more under `place`.

        Rotation may take the checkpoint away before it is sent: these files stay.
        """
        files = lens_files(folder, self.lens.config)
        samples = Path(self.args.output_dir) / SAMPLES
        files |= {SAMPLES: samples} if samples.is_file() else {}
        if place is not None:
            every = (path for path in folder.rglob("*") if path.is_file())
            files |= {f"{place}/{path.relative_to(folder).as_posix()}": path for path in every}
        staged = hub.stage(files, Path(mkdtemp(prefix=hub.STAGED, dir=self.args.output_dir)))
        if place is not None:
            for name in (STATE, ARGUMENTS):
                forget_places(staged / place / name)
        return staged

    def _send(self, staged: Path, message: str, delete: list[str], token: str | None, revision: str | None) -> str:
        repo, token, revision = (
            str(self.hub_model_id),
            token or self.args.hub_token,
            revision or self.args.hub_revision,
        )
        try:
            if (staged / CARD).is_file():
                publish_card(staged / CARD, staged, repo, token, revision)
            return hub.upload(
                staged,
                repo,
                message,
                token,
                revision=revision,
                delete=delete,
                field="hub_model_id",
            )
        finally:
            shutil.rmtree(staged)

    def _in_background(self, *job: Any) -> None:
        sending = self._sender.submit(self._send, *job)
        sending.add_done_callback(_say_what_failed)
        jobs = [] if self.push_in_progress is None else self.push_in_progress.jobs
        self.push_in_progress = PushInProgress([*(each for each in jobs if not each.done()), sending])


def forget_places(file: Path) -> None:
    """Let a record of a checkpoint that is sent keep of each path its name, and not where it lies on this machine."""
    if not file.is_file():
        return
    saved = json.loads(file.read_text(encoding="utf-8"))
    if (kept := _without_places(saved)) != saved:
        file.unlink()  # it is a link to the one of the run
        file.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _without_places(value: Any) -> Any:
    match value:
        case dict():
            return {name: _without_places(inner) for name, inner in value.items()}
        case list():
            return [_without_places(inner) for inner in value]
        case str() if Path(value).is_absolute():
            return Path(value).name
    return value


def _say_what_failed(sending: Future[str]) -> None:
    """Nobody asks for the result: what it raises would never be seen."""
    if sending.cancelled():
        return
    error = sending.exception()
    if isinstance(error, BadInput):
        logger.warning("not pushed: %s", error)
    elif error is not None:
        logger.error("not pushed: %s", hub.redacted(f"{type(error).__name__}: {error}"))
