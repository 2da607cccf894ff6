"""`Sceptic`: what needs no decoder, two tokens as words or as a table: a lens is worth what it has above that.

Shapes: B rows, d hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...evaluation.family import Control, Seen
from ...frozen import Edit
from ..parts.generation import Words
from ..starting.source import vague_id
from ..starting.warm_start import Doubt, starting_words
from .training_pairs import training_pairs
from .two_tokens import EXACT, TwoTokens

GREEDY, TABLE, PROBES, LOGIT_LENS = "greedy", "table", "probes", "logit_lens"
FELL_BACK, TOKEN_READ, NEXT_READ = "fell_back", "token_read", "next_read"
READ = {
    FELL_BACK: "share of rows whose pair of tokens no training row has: the mean of P's token then, or of all",
    TOKEN_READ: "how often the probe names P's token",
    NEXT_READ: "how often the probe names the model's likeliest next token",
}
DEFINED = {
    GREEDY: "P's token and what it predicts next, in the form of the lens's starting texts: no decoder wrote it",
    TABLE: "the mean training activation of rows with the same token at P and the same likeliest next token",
    PROBES: "that table, at what two linear probes on A read: P's token and the next token",
    LOGIT_LENS: "A itself through the last norm and the head, with no layer in between",
}


def read_in(seen: Seen) -> tuple[str, Tensor]:
    """The site that the rows of a batch are of, and their activations there `[B, d]` in float32. A report of a lens
    that reads several sites takes them one after the other."""
    (site,) = [site for site in seen.lens.config.sites or [] if site in seen.batch["activations"]]
    return site, seen.batch["activations"][site].float()


class Sceptic:
    """
    Args:
        rows: the training rows, for the table and the probes; None where there are none.
        sure, vague: of the lens's starting texts: see `ConsistencyLensArguments.warm_sure` and `warm_vague`.
        learned: by site, what has been learned from these rows before; what is learned here is put there.
    """

    def __init__(
        self,
        rows: Any,
        sure: float = 0.0,
        vague: str | None = None,
        learned: dict[str, TwoTokens] | None = None,
    ) -> None:
        self.rows, self.sure, self.vague = rows, sure, vague
        self.learned = {} if learned is None else learned

    def greedy(self, seen: Seen) -> Words:
        """P's token and the model's own continuation, a guess said or left out as in the lens's starting texts."""
        config = seen.lens.config
        banned = {config.stop_id, *(config.never_ids or [])}
        doubt = Doubt(self.sure, vague_id(self.vague, seen.frozen.tokenizer, banned))
        return starting_words("onward", seen.prefix, config, seen.frozen, doubt=doubt)

    def vectors(self, seen: Seen, group: str, told: dict[str, dict[str, Tensor]]) -> Iterator[Control]:
        """What is written where no text stands between: the table, the probes, the logit lens.

        Args:
            seen: a batch.
            group: of these controls.
            told: takes, by control, how much of it was read right.
        """
        site, original = read_in(seen)
        if self.rows is not None and len(self.rows):
            last, following = seen.prefix.input_ids[:, -1].cpu(), seen.comparison.clean[:, 0].argmax(-1).cpu()
            two = self._learned(seen, site)
            read = two.read(original)
            for name, pair in ((TABLE, (last, following)), (PROBES, read)):
                vectors, how = two.look_up(*pair)
                yield Control(name, group, DEFINED[name], [Edit(site, vectors.to(original))])
                told[name] = {FELL_BACK: (how != EXACT).float()}
            right = ((TOKEN_READ, read[0], last), (NEXT_READ, read[1], following))
            told[PROBES] |= {name: (said == true).float() for name, said, true in right}
        yield Control(LOGIT_LENS, group, DEFINED[LOGIT_LENS], [self.logit_lens(seen, original)])

    def logit_lens(self, seen: Seen, original: Tensor) -> Edit:
        return Edit(f"resid_post.{seen.frozen.num_layers - 1}", original)

    @torch.no_grad()
    def said_by_logit_lens(self, seen: Seen) -> list[str]:
        """The one token that it gives each row."""
        edit = self.logit_lens(seen, read_in(seen)[1])
        best = seen.prefix.logits(edit)[:, 0].argmax(-1)
        return [seen.frozen.tokenizer.decode([i]) for i in best.tolist()]

    def _learned(self, seen: Seen, site: str) -> TwoTokens:
        if site not in self.learned:
            self.learned[site] = TwoTokens.learned(training_pairs(self.rows, seen.frozen, site))
        return self.learned[site]
