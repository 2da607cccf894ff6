"""Does editing a word change the frozen model's mind? Steering on the offline model, where the truth is known.

    python benchmarks/steer.py --lens outputs/demo/lens          # 600 stories, a few minutes on one core
    python benchmarks/steer.py --lens outputs/demo/lens --stories 60 --strengths 1 2

At positions where the frozen model is about to say a fact that the words before do not give away, and where the lens's
explanation names that fact, the fact's word in the explanation is replaced by another of its kind ("red" by "blue").
What is added to the activation, times the strength:

- `edited words`: E(new) - E(old), as in `lens.steer`.
- `random word`: the same, but the word is replaced by a random one of no such kind, and the difference is brought to
  the norm of the one above.
- `random direction`: of that norm too.
- `real difference`: A(twin) - A, where the twin is the story with only that fact changed. At strength 1 it is a swap.

Columns: `new fact` is how often the model's likeliest next word is then the new fact, `old fact` how often it is
still the old one, `p new` the mean probability of the new one; `kl` from the unedited subject at that position;
`off-target x 1000` a thousand times the mean KL over the next 64 tokens of the story, but for those where the unedited
subject expects a word for the old fact or for the new one; `size` the norm of what is added over that of the
activation. Intervals are 95 % bootstrap intervals over stories. A second table has `new fact` of the edited words for
each kind of fact, and beside it `restored`: how often the model still says the old fact with E(old) in A's place.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from harness import arguments, report, show
from torch import Tensor

from consistency_lens import AutoLens, Edit, FrozenLM
from consistency_lens.demo.reword import mentions
from consistency_lens.demo.stories import Story, all_words, stories
from consistency_lens.demo.training import HELD_OUT_START
from consistency_lens.demo.words import FACT_WORDS, KINDS, wordings
from consistency_lens.evaluation.bootstrap import Number, Records, Samples
from consistency_lens.objectives import kl_of, masked_mean
from consistency_lens.text.modeling import ConsistencyLens
from consistency_lens.text.use.steering import REACH, difference, kl_per_column, unrelated

WAYS = ("edited words", "random word", "random direction", "real difference")
MEASURES = ("new fact", "old fact", "p new", "kl", "off-target x 1000", "size")
BATCH = 64


@dataclass(frozen=True)
class Case:
    """A position at which a fact is needed, and what to make of that fact."""

    story: int
    words: list[str]
    position: int
    kind: str
    old: str
    new: str
    unrelated: str  # a word of another kind, or of none

    def said_otherwise(self, words: list[str], by: str) -> str:
        """The words with every word for the old fact replaced."""
        return " ".join(by if FACT_WORDS.get(word) == (self.kind, self.old) else word for word in words)


def cases_of(rows: list[Story], seed: int) -> list[Case]:
    rng, found = random.Random(seed), []
    for number, story in enumerate(rows):
        for spot in story.fact_positions:
            kind, old = story.facts[spot.fact].kind, story.facts[spot.fact].value
            new = rng.choice([value for value in KINDS[kind] if value != old])
            other = rng.choice([word for word in all_words() if FACT_WORDS.get(word, ("",))[0] != kind])
            found.append(Case(number, story.words, spot.position, kind, old, new, other))
    return found


def contexts(frozen: FrozenLM, cases: list[Case], texts: list[str]) -> dict[str, Tensor]:
    """Each text up to its case's position, padded on the left, with what comes next."""
    rows = [torch.tensor(frozen.tokenizer(text)["input_ids"]) for text in texts]
    before = [ids[: case.position + 1] for ids, case in zip(rows, cases, strict=True)]
    after = [ids[case.position + 1 :][:REACH] for ids, case in zip(rows, cases, strict=True)]
    pad, found = frozen.tokenizer.pad_token_id, {}
    for names, part, side in (
        (("input_ids", "attention_mask"), before, "left"),
        (("continuation_ids", "continuation_mask"), after, "right"),
    ):
        for name, each, value in zip(names, (part, [torch.ones_like(x) for x in part]), (pad, 0), strict=True):
            found[name] = torch.nn.utils.rnn.pad_sequence(each, True, value, padding_side=side)
    return found


def differences(lens: ConsistencyLens, cases: list[Case], old: list[str], read: Tensor, twins: Tensor) -> list[Tensor]:
    """`[B, d]` for each of `WAYS`."""
    edited = difference(lens, [c.said_otherwise(text.split(), c.new) for c, text in zip(cases, old, strict=True)], old)
    stray = difference(
        lens, [c.said_otherwise(text.split(), c.unrelated) for c, text in zip(cases, old, strict=True)], old
    )
    generator = torch.Generator().manual_seed(cases[0].story)
    anywhere = torch.randn(edited.shape, generator=generator).to(edited)
    size = edited.norm(dim=-1, keepdim=True)
    alike = [torch.nn.functional.normalize(x, dim=-1) * size for x in (stray, anywhere)]
    return [edited, *alike, (twins - read).to(edited)]


@torch.no_grad()
def measure(lens: ConsistencyLens, cases: list[Case], strengths: list[float], records: Records) -> list[Case]:
    """Every way and strength on some cases; gives back those that could be edited."""
    frozen, site = lens.subject, lens.config.origin_site
    assert frozen is not None
    batch = contexts(frozen, cases, [" ".join(case.words) for case in cases])
    prefix = frozen.prefix(batch)
    read = prefix.read(site)[site]
    said = [str(row["explanation"]) for row in lens.explain(lens.compress({"activations": {site: read}}))]
    named = [
        i for i, case in enumerate(cases) if any((m.kind, m.value) == (case.kind, case.old) for m in mentions(said[i]))
    ]
    records.add("cases", {"named": torch.tensor([float(i in named) for i in range(len(cases))])})
    if not named:
        return []
    rows = torch.tensor(named)
    cases, said, read, prefix = [cases[i] for i in named], [said[i] for i in named], read[rows], prefix.take(rows)
    twin_texts = [case.said_otherwise(case.words, case.new) for case in cases]
    twins = frozen.prefix(contexts(frozen, cases, twin_texts)).read(site)[site]
    horizon = batch["continuation_ids"].shape[1]
    before = prefix.logits(horizon=horizon)
    old, new = (
        torch.tensor([frozen.tokenizer.convert_tokens_to_ids(word) for word in words], device=frozen.device)
        for words in ([case.old for case in cases], [case.new for case in cases])
    )
    about = torch.zeros(len(cases), frozen.vocab_size, dtype=torch.bool)
    for row, case in enumerate(cases):
        words = [*wordings(case.kind, case.old), *wordings(case.kind, case.new)]
        about[row, frozen.tokenizer.convert_tokens_to_ids(words)] = True
    # The token behind the last one is not the story's any more, but what is expected there is measured like the rest.
    counts = unrelated(before[:, 1:], about) & batch["continuation_mask"][rows].bool().to(frozen.device)
    restored = prefix.logits(Edit(site, lens.encoder(lens.reread(said)).float()))[:, 0]
    records.add("restored", {"old fact": (restored.argmax(-1) == old).float()})
    added = dict(zip(WAYS, differences(lens, cases, said, read, twins), strict=True))
    for way, strength in [("none", 0.0), *((way, strength) for way in WAYS for strength in strengths)]:
        value = strength * added.get(way, torch.zeros_like(read))
        after = prefix.logits(Edit(site, value, mode="add"), horizon)
        best = after[:, 0].argmax(-1)
        spill = masked_mean(kl_per_column(before[:, 1:], after[:, 1:]), counts)
        found = {
            "new fact": (best == new).float(),
            "old fact": (best == old).float(),
            "p new": after[:, 0].float().softmax(-1).gather(1, new.unsqueeze(1))[:, 0],
            "kl": kl_of(before[:, 0], after[:, 0]),
            "off-target x 1000": torch.where(counts.any(1), 1000 * spill, torch.nan),
            "size": value.norm(dim=-1) / read.norm(dim=-1),
        }
        records.add(f"{way} {strength:g}", found)
    return cases


def numbers(samples: Samples, code: str) -> dict[str, Number | None]:
    return {measure: Number.of(samples.mean(code, measure)) for measure in MEASURES}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--lens", required=True, help="folder of a lens for the offline model, or its id on the Hub")
    parser.add_argument("--stories", type=int, default=600, help="which neither subject nor lens has seen")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.5, 1.0, 1.5, 2.0, 3.0])
    parser.add_argument("--seed", type=int, default=0, help="of the choice of new facts, and of the bootstrap")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    lens: Any = AutoLens.from_pretrained(options.lens, device_map=options.device)
    cases = cases_of(stories(options.stories, 0, HELD_OUT_START), options.seed)
    cases.sort(key=lambda case: case.position)  # rows of about one length together
    records, edited = Records(), []
    for first in range(0, len(cases), BATCH):
        edited += measure(lens, cases[first : first + BATCH], options.strengths, records)
    if not edited:
        raise SystemExit("No explanation names the fact that the model is about to say: there is nothing to edit.")
    kinds = {kind: np.array([case.kind == kind for case in edited]) for kind in KINDS}
    samples = Samples(records, np.array([case.story for case in edited]), kinds, seed=options.seed)
    results: list[dict[str, Any]] = []
    for way, strength in [("none", 0.0), *((way, s) for way in WAYS for s in options.strengths)]:
        results.append({"what is added": way, "strength": strength, **numbers(samples, f"{way} {strength:g}")})
    by_kind: list[dict[str, Any]] = []
    for kind in KINDS:
        kept = Number.of(samples.mean("restored", "old fact", kind))
        moved = {f"{s:g}": Number.of(samples.mean(f"{WAYS[0]} {s:g}", MEASURES[0], kind)) for s in options.strengths}
        by_kind.append({"kind": kind, "positions": samples.rows(kind), "restored": kept, **moved})
    share = float(records.column("cases", "named").mean())
    title = f"Editing a fact word: {len(edited)} positions of {samples.documents} stories"
    note = f"Of {len(cases)} fact positions, {share:.1%} of the explanations name the fact and could be edited."
    show(title, list(results[0]), [list(row.values()) for row in results], note)
    show("new fact, edited words, by strength", list(by_kind[0]), [list(row.values()) for row in by_kind])
    plain = [{k: vars(v) if isinstance(v, Number) else v for k, v in row.items()} for row in [*results, *by_kind]]
    settings = {k: v for k, v in vars(options).items() if k != "json"}
    report(options.json, options.device, settings | {"positions": len(edited), "named": share}, plain)


if __name__ == "__main__":
    main()
