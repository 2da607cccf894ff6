"""Where the starting texts of a training come from: made once for all rows, or for each batch as it comes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...base.engines.engine import any_process
from ...base.modeling import LensModel
from ...errors import BadInput
from ...frozen import FrozenLM
from ..arguments import ConsistencyLensArguments
from ..configuration import ConsistencyLensConfig
from .evidence import room_of
from .foresight import Foresight
from .prepared import PreparedTexts
from .texts import EVIDENCE, StartingTexts
from .warm_start import NO_DOUBT, Doubt, quoted_of


class TextSource:
    """The starting text of every row, as the arguments want it.

    Args:
        args: of the training.
        config: of the lens.
        frozen: the frozen model.
        rows: that are trained on.
        spread: weights are spread over processes: then all make the same passes, and so all texts.
    """

    def __init__(
        self,
        args: ConsistencyLensArguments,
        config: ConsistencyLensConfig,
        frozen: FrozenLM,
        rows: Any,
        spread: bool = False,
    ) -> None:
        self.args, self.config, self.frozen, self.rows, self.spread = args, config, frozen, rows, spread
        require_evidence(vars(args) | {"code_length": config.code_length}, spread)
        banned = {config.stop_id, *(config.never_ids or [])}
        self.doubt = Doubt(args.warm_sure, vague_id(args.warm_vague, frozen.tokenizer, banned))
        self._prepared: PreparedTexts | None = None

    @property
    def quoted(self) -> int:
        """How many of a text's first tokens are quoted from the end of the context."""
        return quoted_of(self.args.warm_start, self.config.code_length)

    def of(self, inputs: Mapping[str, Any], max_steps: int) -> StartingTexts:
        """Those of a batch's rows, in a training of so many steps."""
        if self._prepared is None and not self._is_worth_it(max_steps):
            return self._made(inputs)
        if self._prepared is None:
            if self.args.warm_foresight:
                longest = 1 + max(self.rows["position"])
                Foresight(self.args.warm_foresight).require_room(int(longest), self.frozen.max_length)
            self._prepared = PreparedTexts.of(
                self.rows,
                self._made,
                self.config.pad_id,
                recipe=self._recipe(),
                share=(0, 1) if self.spread else (self.args.process_index, self.args.world_size),
                main=self.args.process_index == 0,
                any_process=partial(any_process, device=self.args.device),
                by_document=self.args.warm_start == EVIDENCE and not self.args.warm_foresight,
            )
        keys = zip(inputs["doc_id"].tolist(), inputs["position"].tolist(), strict=True)
        return self._prepared.find(list(keys), self.frozen.device)

    def _is_worth_it(self, max_steps: int) -> bool:
        """Whether every row will be wanted about as often as it costs to make all texts at once, in good order."""
        if not isinstance(self.rows, Dataset):
            return False
        args = self.args
        steps = max_steps if args.quote else args.num_warm_steps
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return 2 * steps * batch > len(self.rows)

    def _made(self, contexts: Mapping[str, Tensor]) -> StartingTexts:
        asked: Callable[[bool], bool] = partial(any_process, device=self.args.device) if self.spread else bool
        args = self.args
        return StartingTexts.of(
            args.warm_start,
            contexts,
            self.config,
            self.frozen,
            self.doubt,
            asked,
            evidence=args.warm_evidence,
            foresight=args.warm_foresight,
        )

    def _recipe(self) -> dict[str, Any]:
        names = ["code_length", "stop_id", "never_ids", *(["prompt"] if self.args.warm_start == "summary" else [])]
        return {
            "kind": self.args.warm_start,
            **(self._of_evidence() if self.args.warm_start == EVIDENCE else {}),
            "doubt": asdict(self.doubt),
            "subject": self.config.origin.to_dict(),
            **{name: self.config.to_dict()[name] for name in names},
        }

    def _of_evidence(self) -> dict[str, Any]:
        far = {"foresight": asdict(Foresight(self.args.warm_foresight))} if self.args.warm_foresight else {}
        return {"evidence": self.args.warm_evidence, **far}


def require_evidence(values: Mapping[str, Any], spread: bool) -> None:
    """Raise where starting texts of evidence are wanted that these options cannot make, or that would hold none."""
    if values["warm_start"] != EVIDENCE or not values["warm_steps"]:
        return
    if spread:
        fix = "Use another one, such as onward, or an engine that leaves weights whole: ddp or zero2."
        why = "evidence takes gradients of the frozen model, whose weights are spread over processes"
        raise BadInput("warm_start", EVIDENCE, fix, why)
    length, share = values["code_length"], values["warm_evidence"]
    if values["warm_foresight"] and not room_of(length, share)[0]:
        fix = "Use a longer code_length, a larger warm_evidence, or warm_foresight=0."
        why = f"a text of code_length={length} has no room for evidence at warm_evidence={share}"
        raise BadInput("warm_foresight", values["warm_foresight"], fix, why)


class WrittenTexts:
    """What a lens says of each row, in the place of its starting text."""

    quoted, doubt = 0, NO_DOUBT

    def __init__(self, lens: LensModel) -> None:
        self.lens = lens

    def of(self, inputs: Mapping[str, Any], max_steps: int) -> StartingTexts:
        words: Any = self.lens.compress(inputs)
        return StartingTexts(words, torch.zeros_like(words.lengths), self.lens.config.to_dict()["pad_id"])


def vague_id(word: str | None, tokenizer: PreTrainedTokenizerBase, banned: Collection[int]) -> int | None:
    """The token of `warm_vague`, as it stands behind another word; raise where it is none, or one that is banned."""
    if word is None:
        return None
    forms = (tokenizer(form, add_special_tokens=False)["input_ids"] for form in (f" {word}", word))
    ids = min(forms, key=len)
    if len(ids) != 1 or ids[0] in banned:
        fix = "Use a word that is one token of this model, such as 'something', or leave it out."
        raise BadInput("warm_vague", word, fix, why=f"it is {len(ids)} tokens or a special one")
    return int(ids[0])
