"""Could two tokens tell what a model holds at the end of a page? The controls of `kl_asked`, without a lens.

    python benchmarks/state.py                             # the model of pages, trained first where there is none
    python benchmarks/state.py --train 500 --test 100      # a short look

On the world of pages, a page that has been turned is one activation. First the proof: what linear probes read there of
facts that the next 16 tokens do not say, and what the model says of facts needed 20 or more tokens later, with that
activation in place and with others. Then the questions: behind the page, the model is asked for a fact that a probe
reads and that the next 16 tokens do not say, with each control in the activation's place:

    self       the activation itself
    facts      what a least-squares map makes of the facts that the page states: what words can carry
    greedy     what a least-squares map makes of P's token and the eight tokens that the model itself says next
    table      the mean training activation by (token at P, likeliest next token)
    probes     that table, at what two linear probes read from the activation
    other      another page's activation
    mean       the mean training activation, by which `kl_asked_recovered` is 0
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from harness import arguments, report, show
from torch import Tensor
from torch.nn import functional as F

from consistency_lens.demo.judging.probes import FactProbes
from consistency_lens.demo.pages.judging import HeldJudge, PageQuestions
from consistency_lens.demo.pages.keeper import STATE_SITE, keeper_path, load_report
from consistency_lens.demo.pages.proof import QUIET, Proof, prove_bottleneck
from consistency_lens.demo.pages.writing import PAGE, SEAL, stories
from consistency_lens.demo.probe import LinearProbe
from consistency_lens.demo.stories import Story
from consistency_lens.demo.training import HELD_OUT_START
from consistency_lens.demo.words import KINDS
from consistency_lens.evaluation.bootstrap import Number, Records, Samples
from consistency_lens.frozen import FrozenLM, Prefix
from consistency_lens.text.sceptic.asked import QUANTITIES, asked
from consistency_lens.text.sceptic.training_pairs import Pairs
from consistency_lens.text.sceptic.two_tokens import TwoTokens

TRAINING = 600_000_000  # stories that nobody else reads
TEST = HELD_OUT_START + 100_000_000
BATCH, AHEAD, RIDGE = 50, 8, 1e-3
FACTS = {fact: i for i, fact in enumerate((kind, value) for kind, values in KINDS.items() for value in values)}


@dataclass(frozen=True)
class Pages:
    """Some stories at the end of their first page.

    Args:
        rows: what the questions need of each.
        vectors: `[N, d]`.
        said: `[N, 8]`, what the model itself says next.
    """

    rows: dict[str, list[Any]]
    vectors: Tensor
    said: Tensor

    @property
    def last(self) -> Tensor:
        return torch.tensor([ids[-1] for ids in self.rows["input_ids"]])

    @property
    def text_features(self) -> Tensor:
        """Which token stands in which slot of P's token and what is said next, `[N, 9 * vocabulary]`."""
        ids = torch.cat([self.last.unsqueeze(1), self.said], dim=1)
        return F.one_hot(ids, int(ids.max()) + 1).flatten(1).double()

    @property
    def fact_features(self) -> Tensor:
        """Which facts the page states, `[N, facts]`."""
        found = torch.zeros(len(self.vectors), len(FACTS), dtype=torch.float64)
        for row, facts in enumerate(self.rows["facts"]):
            for fact in facts:
                found[row, FACTS[fact["kind"], fact["value"]]] = 1
        return found

    def pairs(self) -> Pairs:
        return Pairs(self.vectors, self.last, self.said[:, 0])


def contexts(frozen: FrozenLM, told: list[Story]) -> Iterator[tuple[Prefix, dict[str, list[Any]]]]:
    for first in range(0, len(told), BATCH):
        part = told[first : first + BATCH]
        ids = [frozen.tokenizer(row.text)["input_ids"] for row in part]
        rows = {
            "input_ids": [own[:PAGE] for own in ids],
            "continuation_ids": [own[PAGE : PAGE + QUIET] for own in ids],
            "position": [SEAL] * len(ids),
            "facts": [[asdict(fact) for fact in row.facts] for row in part],
        }
        yield frozen.prefix({"input_ids": torch.tensor(rows["input_ids"])}), rows


@torch.no_grad()
def read(frozen: FrozenLM, site: str, told: list[Story]) -> Pages:
    every: dict[str, list[Any]] = {}
    vectors, said = [], []
    for prefix, rows in contexts(frozen, told):
        for name, values in rows.items():
            every.setdefault(name, []).extend(values)
        vectors.append(prefix.read(site)[site].float())
        said.append(prefix.continue_greedily(AHEAD)[0])
    found = torch.cat(vectors)
    return Pages({**every, site: list(found)}, found, torch.cat(said))


def fitted(train: Tensor, test: Tensor, vectors: Tensor) -> Tensor:
    """A ridge regression from features to activations, `[N, d]` of the test rows."""
    width = max(train.shape[1], test.shape[1])
    train, test = (F.pad(each, (0, width - each.shape[1])) for each in (train, test))
    used = train.any(0)
    x, y, mean = train[:, used], test[:, used], vectors.double().mean(0)
    centre = x.mean(0)
    gram = (x - centre).T @ (x - centre) / len(x) + RIDGE * torch.eye(x.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, (x - centre).T @ (vectors.double() - mean) / len(x))
    return ((y - centre) @ weight + mean).float()


def written(train: Pages, test: Pages) -> dict[str, Tensor]:
    """Control -> what takes the place of the activation of each test row."""
    two = TwoTokens.learned([train.pairs()])
    return {
        "self": test.vectors,
        "facts": fitted(train.fact_features, test.fact_features, train.vectors),
        "greedy": fitted(train.text_features, test.text_features, train.vectors),
        "table": two.look_up(test.last, test.said[:, 0])[0],
        "probes": two.look_up(*two.read(test.vectors))[0],
        "other": test.vectors.roll(1, 0),
        "mean": train.vectors.mean(0).expand(len(test.vectors), -1),
    }


def held_by(train: Pages) -> FactProbes:
    found: dict[str, list[tuple[int, str]]] = {}
    for row, facts in enumerate(train.rows["facts"]):
        for fact in facts:
            found.setdefault(fact["kind"], []).append((row, fact["value"]))
    probes = {
        kind: LinearProbe.fit(train.vectors[[row for row, _ in known]], [value for _, value in known])
        for kind, known in found.items()
    }
    return FactProbes({}, probes)


def questioned(
    frozen: FrozenLM, site: str, told: list[Story], test: Pages, held: FactProbes, codes: dict[str, Tensor], seed: int
) -> dict[str, dict[str, Number | None]]:
    """Control -> its numbers."""
    records, first = Records(), 0
    for prefix, rows in contexts(frozen, told):
        part = slice(first, first + len(rows["position"]))
        first = part.stop
        questions = PageQuestions(held, site).questions(rows | {site: list(test.vectors[part])}, seed + part.start)
        answers = asked(frozen, prefix, site, questions, {name: vectors[part] for name, vectors in codes.items()})
        for name, measures in answers.items():
            records.add(name, measures)
    texts = frozen.tokenizer.batch_decode(test.said)
    for name, (above, below) in HeldJudge(held, site).judge(texts, test.rows).items():
        records.add("greedy", {name: above}, {name: below})
    samples = Samples(records, np.arange(len(told)), seed=seed)
    found: dict[str, dict[str, Number | None]] = {}
    for code in codes:
        numbers = {
            name: quantity.draws(samples, code, "") if quantity.draws else samples.mean(code, name)
            for name, quantity in QUANTITIES.items()
        }
        numbers |= {name: samples.mean(code, name) for name in HeldJudge.definitions if samples.has(code, name)}
        found[code] = {name: None if draws is None else Number.of(draws) for name, draws in numbers.items()}
    found["rows"] = {"asked": Number(*[float(samples.sums("self", "kl_asked")[1][0])] * 3)}
    return found


def shown_of(proof: Proof) -> list[list[str]]:
    return [
        [f"held, not said within {QUIET} tokens: read at the seal", str(proof.held)],
        ["the same, read from the seal's embedding", str(proof.before_turning)],
        ["the same, read one token later", str(proof.behind)],
        ["needed 20 or more tokens later: said by the model", str(proof.said)],
        *([f"the same, {name}", str(number)] for name, number in proof.said_by.items()),
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--train", type=int, default=4000, help="stories that the controls learn from (default: 4000)")
    parser.add_argument("--test", type=int, default=1000, help="stories that are asked about (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of stories, questions and intervals (default: 0)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    start, folder, site = time.process_time(), keeper_path(), STATE_SITE
    frozen = FrozenLM.from_pretrained(folder)
    told = {
        "train": stories(options.train, options.seed, TRAINING),
        "test": stories(options.test, options.seed, TEST),
    }
    proof = prove_bottleneck(frozen, site, told["test"], options.seed)
    show("one activation is all that is left of a page", ["what", "share"], shown_of(proof))
    train, test = (read(frozen, site, told[name]) for name in ("train", "test"))
    numbers = questioned(frozen, site, told["test"], test, held_by(train), written(train, test), options.seed)
    count = numbers.pop("rows")["asked"]
    names = [*QUANTITIES, *HeldJudge.definitions]
    table = [
        [code, *("–" if of.get(name) is None else str(of[name]) for name in names)] for code, of in numbers.items()
    ]
    note = (
        f"{count.value:.0f} questions, of {len(told['test'])} pages; {time.process_time() - start:.0f} s of CPU time"
    )
    show("asked behind the page, in the activation's place", ["in A's place", *names], table, note)
    settings = {k: v for k, v in vars(options).items() if k != "json"}
    said = load_report(folder)
    settings |= {"said": said.accuracy, "train_cpu_seconds": said.cpu_seconds, "proof": asdict(proof)}
    results = [{"code": code} | {k: v and asdict(v) for k, v in of.items()} for code, of in numbers.items()]
    report(options.json, options.device, settings, results)


if __name__ == "__main__":
    main()
