"""The table that a sceptic makes of a lens of the demo: plain hooks, whole sequences, none of the evaluation's code.

    python benchmarks/sceptic.py --lens outputs/demo/lens --activations outputs/demo-activations  # minutes, one core
    python benchmarks/sceptic.py --lens outputs/demo/lens --activations outputs/demo-activations --rows 200

What is put in A's place, at the last token of each row's context, in one pass over the whole sequence:

- `lens`: what the lens restores from its own words.
- `greedy`: P's token and what the model goes on to say, with a guess (probability below --sure) as the word --vague,
  through the lens's encoder: no decoder at all. `greedy, plain` is the same without --vague.
- `greedy, its own encoder`: that text through an encoder trained on such texts (greedy_lens beside the lens, if a run
  has left one there).
- `table`: the mean training activation of rows with the same token at P and the same likeliest next token; where
  training has no such pair the mean of P's token, else the mean of all. `fell back` says how often.
- `probes`: two linear discriminants on A name the two tokens, then the table.
- `mean`: the mean training activation, which scores 0.
- `swapped`, `dropped`, `replaced`: the lens's own words with the first two exchanged, the second left out, or the
  second replaced by another one of its kind where it is a fact, else by a random word.

Columns: `kl_recovered` and `top1` at P, `fve` on raw vectors, the two first again at `fact` rows, where the next
token is a fact that nothing near P gives away. Intervals are 95 % bootstrap intervals over documents. A second table
has the fact words of the explanations by where else they stand, and how many are true; and --show prints explanations
drawn at random, each with its context.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import arguments, report, show
from torch import Tensor

from consistency_lens import AutoLens
from consistency_lens.activations import Activations
from consistency_lens.demo.words import FACT_WORDS, KINDS

SEEN, BATCH, DRAWS, RIDGE = 8, 64, 1000, 1e-3


@dataclass
class Rows:
    """Held-out rows: contexts, what follows, the stored activation, and whether a fact comes next."""

    contexts: list[list[int]]
    following: list[list[int]]
    documents: list[int]
    vectors: Tensor
    facts: list[list[dict[str, Any]]]
    at_fact: np.ndarray

    @classmethod
    def of(cls, split: Any, site: str, most: int, seed: int) -> Rows:
        order = np.random.default_rng(seed).permutation(len(split))[:most]
        found = [split[int(i)] for i in order]
        spots = [any(s["position"] == row["position"] for s in row.get("fact_positions") or []) for row in found]
        return cls(
            [list(row["input_ids"]) for row in found],
            [list(row["continuation_ids"]) for row in found],
            [int(row["doc_id"]) for row in found],
            torch.tensor(np.array([row[site] for row in found])).float(),
            [row.get("facts") or [] for row in found],
            np.array(spots),
        )


@contextmanager
def written(block: torch.nn.Module, vectors: Tensor | None, columns: Tensor) -> Iterator[None]:
    """The output of a block replaced at one column of each row."""

    def hook(module: Any, given: Any, out: Any) -> Any:
        hidden = (out[0] if isinstance(out, tuple) else out).clone()
        hidden[torch.arange(len(hidden)), columns] = vectors.to(hidden)  # type: ignore[union-attr]
        return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

    handle = None if vectors is None else block.register_forward_hook(hook)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


class Subject:
    """The frozen model as plain transformers has it."""

    def __init__(self, model: Any, tokenizer: Any, site: str) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.block = model.model.layers[int(site.rpartition(".")[2])]

    @torch.no_grad()
    def predict(
        self, rows: Rows, vectors: Tensor | None, ahead: int = SEEN
    ) -> Iterator[tuple[list[int], list[Tensor]]]:
        """Row numbers of a batch, and log-probabilities at P and behind it, `[1 + k, V]` of each."""
        order = sorted(range(len(rows.contexts)), key=lambda i: len(rows.contexts[i]))
        for first in range(0, len(order), BATCH):
            part = order[first : first + BATCH]
            ids = [torch.tensor(rows.contexts[i] + rows.following[i][:ahead]) for i in part]
            columns = torch.tensor([len(rows.contexts[i]) - 1 for i in part])
            padded = torch.nn.utils.rnn.pad_sequence(ids, True, 0).to(self.model.device)
            with written(self.block, None if vectors is None else vectors[part], columns):
                logits = self.model(input_ids=padded, use_cache=False).logits.float()
            lengths = [len(one) for one in ids]
            yield (
                part,
                [logits[k, columns[k] : lengths[k]].log_softmax(-1).cpu() for k in range(len(part))],
            )

    @torch.no_grad()
    def say(self, rows: Rows, length: int) -> tuple[list[list[int]], list[list[float]]]:
        """The likeliest tokens, one after another by whole passes, and their probabilities."""
        texts, sure = [list(ids) for ids in rows.contexts], [[] for _ in rows.contexts]  # type: ignore[var-annotated]
        for _ in range(length):
            grown = Rows(texts, [[] for _ in texts], rows.documents, rows.vectors, rows.facts, rows.at_fact)
            for part, found in self.predict(grown, None):
                for i, log_p in zip(part, found, strict=True):
                    best = int(log_p[0].argmax())
                    sure[i].append(float(log_p[0, best].exp()))
                    texts[i] = [*texts[i], best]
        said = [text[len(ids) :] for text, ids in zip(texts, rows.contexts, strict=True)]
        return said, sure


def scored(subject: Subject, rows: Rows, clean: list[Tensor], vectors: Tensor) -> dict[str, np.ndarray]:
    """Per row: KL at P, mean KL behind it, whether the likeliest token stays, squared error."""
    kl, behind, same = (np.zeros(len(clean)) for _ in range(3))
    for part, found in subject.predict(rows, vectors):
        for i, log_q in zip(part, found, strict=True):
            each = (clean[i].exp() * (clean[i] - log_q)).sum(-1)
            kl[i], same[i] = float(each[0]), float(clean[i][0].argmax() == log_q[0].argmax())
            behind[i] = float(each[1:].mean()) if len(each) > 1 else np.nan
    error = (vectors.cpu() - rows.vectors).square().sum(1).double().numpy()
    return {"kl": kl, "behind": behind, "top1": same, "error": error}


def table_of(subject: Subject, split: Any, site: str, most: int) -> tuple[dict[Any, Tensor], Tensor, Tensor, Tensor]:
    """Means by pair, by P's token (key: the token) and of all (key: None); and vectors, tokens at P, next tokens."""
    rows = Rows.of(split, site, most, seed=1)
    following = torch.zeros(len(rows.contexts), dtype=torch.long)
    for part, found in subject.predict(rows, None, ahead=0):
        for i, log_p in zip(part, found, strict=True):
            following[i] = log_p[0].argmax()
    last = torch.tensor([ids[-1] for ids in rows.contexts])
    groups: dict[Any, list[int]] = defaultdict(list)
    for i, pair in enumerate(zip(last.tolist(), following.tolist(), strict=True)):
        groups[pair].append(i)
        groups[pair[0]].append(i)
    means = {key: rows.vectors[where].mean(0) for key, where in groups.items()}
    return means | {None: rows.vectors.mean(0)}, rows.vectors, last, following


def looked_up(means: dict[Any, Tensor], last: Sequence[int], following: Sequence[int]) -> tuple[Tensor, float]:
    """The table's vectors, and the share of rows that fell back."""
    pairs = list(zip(last, following, strict=True))
    found = [means[p] if p in means else means[p[0]] if p[0] in means else means[None] for p in pairs]
    return torch.stack(found), float(np.mean([pair not in means for pair in pairs]))


def classifier(vectors: Tensor, labels: Tensor) -> Callable[[Tensor], list[int]]:
    """Linear discriminants: a Gaussian for each class, all of one shape."""
    classes, target = labels.unique(return_inverse=True)
    mean, scale = vectors.double().mean(0), vectors.double().std(0).clamp_min(1e-6)
    x = (vectors.double() - mean) / scale
    counts = torch.bincount(target).double()
    means = torch.zeros(len(classes), x.shape[1], dtype=torch.double).index_add_(0, target, x) / counts.unsqueeze(1)
    apart = x - means[target]
    within = apart.T @ apart / len(x) + RIDGE * torch.eye(x.shape[1], dtype=torch.double)
    weight = torch.linalg.solve(within, means.T)
    offset = (counts / len(x)).log() - (means * weight.T).sum(1) / 2
    return lambda other: classes[((other.double() - mean) / scale @ weight + offset).argmax(1)].tolist()


def in_form(
    said: list[list[int]], sure: list[list[float]], last: list[int], length: int, word: int | None, least: float
) -> list[list[int]]:
    """P's token and what was said, each guess as a general word; two guesses in a row end the text, and no text ends
    in general words. Without a word, the whole of what was said."""
    texts = []
    for token, tokens, chances in zip(last, said, sure, strict=True):
        text = [token]
        for k, (each, chance) in enumerate(zip(tokens[: length - 1], chances, strict=False)):
            guess = word is not None and chance < least
            following = k + 1 < min(len(tokens), length - 1) and chances[k + 1] < least
            if guess and following:
                break
            text.append(word if guess else each)  # type: ignore[arg-type]
        while word is not None and len(text) > 1 and text[-1] == word:
            text.pop()
        texts.append(text)
    return texts


def interval(documents: np.ndarray, formula: Callable[[np.ndarray], float], seed: int = 0) -> str:
    """A number with its 95 % interval; `formula` takes how often each row counts."""
    names, where = np.unique(documents, return_inverse=True)
    rng = np.random.default_rng(seed)
    draws = [
        formula(np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))[where].astype(float))
        for _ in range(DRAWS)
    ]
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return f"{formula(np.ones(len(where))):.3f} [{low:.3f}, {high:.3f}]"


def changed_texts(texts: list[list[str]], seed: int) -> dict[str, list[str]]:
    """The lens's words with one thing done to the first two."""
    rng = random.Random(seed)
    every = sorted({word for text in texts for word in text})

    def other(word: str) -> str:
        kind = FACT_WORDS.get(word, ("", ""))[0]
        return rng.choice([each for each in (KINDS[kind] if kind else every) if each != word] or [word])

    return {
        "swapped": [" ".join([*reversed(text[:2]), *text[2:]]) for text in texts],
        "dropped": [" ".join([*text[:1], *text[2:]]) for text in texts],
        "replaced": [" ".join([*text[:1], *map(other, text[1:2]), *text[2:]]) for text in texts],
    }


def precision(texts: list[list[str]], rows: Rows, words: Callable[[Sequence[int]], list[str]]) -> list[dict[str, Any]]:
    """Fact words by where else they stand, and the share of each that is true of the story."""
    said: dict[str, list[bool]] = defaultdict(list)
    for text, context, following, facts in zip(texts, rows.contexts, rows.following, rows.facts, strict=True):
        true = {(fact["kind"], fact["value"]) for fact in facts}
        near = [FACT_WORDS.get(word) for word in words(context[-SEEN:])]
        coming = FACT_WORDS.get((words(following[:1]) or [""])[0])
        for fact in filter(None, map(FACT_WORDS.get, text)):
            place = (
                "at P" if fact == near[-1] else "in sight" if fact in near else "next" if fact == coming else "beyond"
            )
            said[place].append(fact in true)
    total = sum(map(len, said.values()))
    return [
        {
            "fact words": place,
            "share": len(said[place]) / max(1, total),
            "count": len(said[place]),
            "true": float(np.mean(said[place] or [np.nan])),
        }
        for place in ("at P", "in sight", "next", "beyond")
    ]


def numbers_of(
    found: dict[str, np.ndarray], zero: dict[str, np.ndarray], spread: np.ndarray, rows: Rows
) -> dict[str, Any]:
    """The columns of one line."""
    documents, every = np.array(rows.documents), np.ones(len(spread))

    def recovered(kept: np.ndarray) -> str:
        return interval(
            documents, lambda n: 1 - (n * kept * found["kl"]).sum() / max((n * kept * zero["kl"]).sum(), 1e-12)
        )

    def stayed(kept: np.ndarray) -> str:
        return interval(documents, lambda n: (n * kept * found["top1"]).sum() / max((n * kept).sum(), 1))

    line: dict[str, Any] = {}
    for where, kept in (("", every), ("fact ", rows.at_fact.astype(float))):
        line |= {f"{where}kl_recovered": recovered(kept), f"{where}top1": stayed(kept)}
    line["fve"] = interval(documents, lambda n: 1 - (n * found["error"]).sum() / (n * spread).sum())
    return line | {"behind P, nats": float(np.nanmean(found["behind"]))}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--lens", required=True, type=Path, help="folder of a lens of the offline model")
    parser.add_argument("--activations", required=True, type=Path, help="folder of the rows that it was trained on")
    parser.add_argument("--rows", type=int, default=2000, help="held-out rows (default: 2000)")
    parser.add_argument(
        "--training_rows", type=int, default=50_000, help="rows of the table and the probes (default: 50000)"
    )
    parser.add_argument(
        "--sure", type=float, default=0.3, help="probability below which a token is a guess (default: 0.3)"
    )
    parser.add_argument("--vague", default="something", help="word in the place of a guess (default: something)")
    parser.add_argument("--show", type=int, default=20, help="explanations that are printed (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of rows and of words")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    lens: Any = AutoLens.from_pretrained(options.lens, device_map=options.device)
    (site,), tokenizer = lens.config.sites, lens.subject.tokenizer
    data = Activations.load(options.activations, verify=False)
    subject = Subject(lens.subject.model, tokenizer, site)
    rows = Rows.of(data.splits["test"], site, options.rows, options.seed)
    clean: list[Any] = [None] * len(rows.contexts)
    for part, found in subject.predict(rows, None):
        for i, log_p in zip(part, found, strict=True):
            clean[i] = log_p
    means, vectors, last, following = table_of(subject, data.splits["train"], site, options.training_rows)
    at_p, coming = [ids[-1] for ids in rows.contexts], [int(log_p[0].argmax()) for log_p in clean]
    place, fell = {}, {}
    place["table"], fell["table"] = looked_up(means, at_p, coming)
    read = [classifier(vectors, labels)(rows.vectors) for labels in (last, following)]
    place["probes"], fell["probes"] = looked_up(means, *read)
    place["mean"] = means[None].expand_as(rows.vectors)
    with torch.no_grad():
        code = lens.compress({"activations": {site: rows.vectors}})
        texts = [str(row["explanation"]) for row in lens.describe(code)]
        length = lens.config.code_length
        said, sure = subject.say(rows, length - 1)
        word = tokenizer.convert_tokens_to_ids(options.vague) if options.vague else None
        greedy = {
            "greedy": in_form(said, sure, at_p, length, word, options.sure),
            "greedy, plain": in_form(said, sure, at_p, length, None, 0.0),
        }
        encoded = {"lens": (lens, texts)}
        encoded |= {name: (lens, [tokenizer.decode(ids) for ids in found]) for name, found in greedy.items()}
        trained = options.lens.parent / "greedy_lens"
        if (trained / "config.json").is_file():
            other = AutoLens.from_pretrained(trained, lens.subject)
            encoded["greedy, its own encoder"] = (other, encoded["greedy"][1])
        encoded |= {
            name: (lens, found) for name, found in changed_texts([t.split() for t in texts], options.seed).items()
        }
        for name, (reader, given) in encoded.items():
            place[name] = reader.encoder(reader.reread(given)).float().cpu()
    documents, zero = np.array(rows.documents), scored(subject, rows, clean, place["mean"])
    spread = (rows.vectors - means[None]).square().sum(1).double().numpy()
    results = []
    for name in ("lens", *(n for n in place if n != "lens")):
        found = scored(subject, rows, clean, place[name])
        results.append({"in A's place": name} | numbers_of(found, zero, spread, rows) | {"fell back": fell.get(name)})
    show(
        f"{len(documents)} rows of {len(set(rows.documents))} documents, {int(rows.at_fact.sum())} before a fact",
        list(results[0]),
        [list(r.values()) for r in results],
    )
    right = [float(np.mean(np.array(got) == np.array(true))) for got, true in zip(read, (at_p, coming), strict=True)]
    spoken = precision([t.split() for t in texts], rows, lambda ids: tokenizer.decode(list(ids)).split())
    show(
        "fact words of the explanations",
        list(spoken[0]),
        [list(r.values()) for r in spoken],
        f"The probes read P's token in {right[0]:.3f} and the next in {right[1]:.3f} of the rows.",
    )
    for i in random.Random(options.seed).sample(range(len(texts)), min(options.show, len(texts))):
        print(f"... {tokenizer.decode(rows.contexts[i][-14:])} | {texts[i]}")
    settings = {k: str(v) for k, v in vars(options).items() if k != "json"}
    report(options.json, options.device, settings | {"probes": right}, [*results, *spoken])


if __name__ == "__main__":
    main()
