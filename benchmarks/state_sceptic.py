"""What a page's words make the model say behind it: plain hooks, whole sequences, none of the evaluation's code.

    python benchmarks/state_sceptic.py --run outputs/state_demo --activations outputs/state-demo-activations
    python benchmarks/state_sceptic.py --run outputs/state_demo --activations outputs/state-demo-activations --rows 100

The lens reads the last token of a page. Behind the page the model is asked for a fact that the page states and that
the stored continuation never says, in one pass over the whole sequence (*they sat down and ate the*). Only what it
answers rightly without an edit is asked. In the activation's place stands what the lens's encoder makes of a text:

- `lens`: the words of the lens. `warm start`: those of the lens before it was trained on function, if the run kept it.
- `facts`: the facts that the page states, in its order and in the lens's form, and no decoder: what words can carry.
- `greedy`: P's token and what the model goes on to say. `other page`: another page's words.
- `shuffled`: the lens's fact words in another order. `synonyms`: in other wordings. `all shuffled`: all of its words.
- `left out`: the lens's words without those of the asked fact. `another value`: with another value in their place.
- `alone`: of the facts the asked one alone, as a word. `sentence`: as a sentence of the world, without its first
  words where it is too long for a text. `negated`: behind *not*. All three end as the lens's own words do.

and in place of the activation itself:

- `table`: the mean training activation by (token at P, likeliest next token). `mean`: the mean one, which scores 0.

Columns: `kl_asked`, the KL at the end of the question in nats; how much of the mean's it recovers; `says it`, how
often the model then says the fact, and `says the other`, the value that `another value` names. Intervals are 95 %
bootstrap intervals over pages. A second table has the fact words of the lens, and --show prints explanations drawn at
random.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import arguments, report, show
from sceptic import Rows, Subject, interval, looked_up, table_of
from torch import Tensor

from consistency_lens import AutoLens
from consistency_lens.activations import Activations
from consistency_lens.demo.grammar import GROUPS, NEEDED, STATED
from consistency_lens.demo.words import FACT_WORDS, KINDS, LEXICON, wordings

LONGEST = 32  # tokens of a question at most


@dataclass
class Asked:
    """One question behind each page.

    Args:
        rows: the pages, each with its question in the place of what follows.
        facts: what is asked for, as kind and value.
        numbers: which rows these were.
    """

    rows: Rows
    facts: list[tuple[str, str]]
    numbers: list[int]


def sentence(template: str, value: str, rng: random.Random) -> tuple[str, str]:
    """A sentence of the world with a value, and what of it stands before the value."""
    words = [rng.choice(LEXICON[word[1:-1]]) if word.startswith("[") else word for word in template.split()]
    slot = next(i for i, word in enumerate(words) if word.startswith("{"))
    return " ".join([*words[:slot], value, *words[slot + 1 :]]), " ".join(words[:slot])


def questions(subject: Subject, rows: Rows, seed: int, every: bool = False) -> Asked:
    """Of each page a fact that what follows never says, and, without `every`, that the untouched model answers."""
    found: list[tuple[int, tuple[str, str], list[int]]] = []
    for number, (facts, following) in enumerate(zip(rows.facts, rows.following, strict=True)):
        rng = random.Random(f"{seed}/{rows.documents[number]}")
        coming = {FACT_WORDS.get(word) for word in subject.tokenizer.decode(following).split()}
        page = len(rows.contexts[number])
        free = [(f["kind"], f["value"]) for f in facts if f["stated_at"] < page]
        free = [fact for fact in free if fact not in coming]
        if free:
            fact = rng.choice(free)
            _, before = sentence(rng.choice(NEEDED[group_of(fact[0])]), fact[1], rng)
            found.append((number, fact, subject.tokenizer(before, add_special_tokens=False)["input_ids"]))
    asked = _asked(rows, found)
    known = [
        i
        for part, log_p in subject.predict(asked.rows, None, ahead=LONGEST)
        for i, each in zip(part, log_p, strict=True)
        if every or int(each[-1].argmax()) == word_of(subject, asked.facts[i][1])
    ]
    return _asked(rows, [found[i] for i in sorted(known)])


def _asked(rows: Rows, found: Sequence[tuple[int, tuple[str, str], list[int]]]) -> Asked:
    numbers = [number for number, *_ in found]
    return Asked(taken(rows, numbers, [ids for *_, ids in found]), [fact for _, fact, _ in found], numbers)


def group_of(kind: str) -> str:
    return next(group for group, kinds in GROUPS.items() if kind in kinds)


def word_of(subject: Subject, word: str) -> int:
    return int(subject.tokenizer.convert_tokens_to_ids(word))


def taken(rows: Rows, numbers: Sequence[int], following: Sequence[list[int]]) -> Rows:
    """Some rows with other tokens behind them."""
    return Rows(
        [rows.contexts[i] for i in numbers],
        list(following),
        [rows.documents[i] for i in numbers],
        rows.vectors[list(numbers)],
        [rows.facts[i] for i in numbers],
        rows.at_fact[list(numbers)],
    )


def changed(texts: list[list[str]], asked: Asked, seed: int, length: int) -> tuple[dict[str, list[str]], list[str]]:
    """The lens's words with one thing done to them, at most so many; and the other value that each `another value`
    names."""
    rng, found = random.Random(seed), {name: [] for name in CHANGES}  # type: ignore[var-annotated]
    others = []
    for text, (kind, value) in zip(texts, asked.facts, strict=True):
        other = rng.choice([each for each in KINDS[kind] if each != value])
        rest = [word for word in text if FACT_WORDS.get(word) != (kind, value)]
        told = [other if FACT_WORDS.get(word) == (kind, value) else word for word in text]
        stated, _ = sentence(min(STATED[group_of(kind)], key=lambda each: len(each.split())), value, rng)
        others.append(other)
        places = [i for i, word in enumerate(text) if word in FACT_WORDS]
        end = (text[places[-1] + 1 :] if places else text)[2 - length :]  # two words have room before it
        dealt = dict(zip(places, rng.sample(places, len(places)), strict=True))
        found["shuffled"].append(" ".join(text[dealt.get(i, i)] for i in range(len(text))))
        found["all shuffled"].append(" ".join(rng.sample(text, len(text))))
        found["synonyms"].append(" ".join(reworded(word, rng) for word in text))
        found["alone"].append(" ".join([value, *end]))
        found["sentence"].append(" ".join([*stated.removesuffix(" .").split(), *end][-length:]))
        found["left out"].append(" ".join(rest) or ".")
        found["another value"].append(" ".join(told if told != text else [other, *text][-length:]))
        found["negated"].append(" ".join(["not", value, *end]))
    return found, others


CHANGES = ("shuffled", "all shuffled", "synonyms", "left out", "another value", "alone", "sentence", "negated")


def reworded(word: str, rng: random.Random) -> str:
    fact = FACT_WORDS.get(word)
    forms = [form for form in wordings(*fact) if form != word] if fact else []
    return rng.choice(forms) if forms else word


def facts_in_words(rows: Rows, following: Sequence[str], length: int) -> list[str]:
    """The facts of each page, as the world names them; then the page's last token, and the one that comes next."""
    stated = [
        [f["value"] for f in facts if f["stated_at"] < len(ids)]
        for facts, ids in zip(rows.facts, rows.contexts, strict=True)
    ]
    return [" ".join([*values[: length - 2], ".", after]) for values, after in zip(stated, following, strict=True)]


def answered(
    subject: Subject, asked: Asked, clean: list[Tensor], vectors: Tensor | None, others: Sequence[str]
) -> dict[str, np.ndarray]:
    """Per question: KL at its end, whether the model says the fact, and whether it says the other value."""
    count = len(asked.facts)
    kl, right, other = (np.zeros(count) for _ in range(3))
    for part, found in subject.predict(asked.rows, vectors, ahead=LONGEST):
        for i, each in zip(part, found, strict=True):
            log_q, best = each[-1], int(each[-1].argmax())
            kl[i] = float((clean[i].exp() * (clean[i] - log_q)).sum())
            right[i] = best == word_of(subject, asked.facts[i][1])
            other[i] = best == word_of(subject, others[i])
    return {"kl": kl, "right": right, "other": other}


def named(texts: list[list[str]], rows: Rows, words: Callable[[Sequence[int]], list[str]]) -> dict[str, str]:
    """Of the facts that a page states and that what follows never says, the share that a text names; and of a text's
    fact words that what follows never says, the share that the page states."""
    hit, there, said = (np.zeros(len(texts)) for _ in range(3))
    for i, text in enumerate(texts):
        coming = {FACT_WORDS.get(word) for word in words(rows.following[i])}
        true = {(f["kind"], f["value"]) for f in rows.facts[i] if f["stated_at"] < len(rows.contexts[i])} - coming
        names = {FACT_WORDS[word] for word in text if word in FACT_WORDS} - coming
        hit[i], there[i], said[i] = len(true & names), len(true), len(names)
    documents = np.array(rows.documents)
    return {
        "of the facts, named": interval(documents, lambda n: (n * hit).sum() / max((n * there).sum(), 1)),
        "of the fact words, true": interval(documents, lambda n: (n * hit).sum() / max((n * said).sum(), 1)),
    }


@torch.no_grad()
def words_of(lens: Any, site: str, vectors: Tensor) -> list[str]:
    parts = vectors.split(256)
    return [
        str(r["explanation"]) for each in parts for r in lens.describe(lens.compress({"activations": {site: each}}))
    ]


@torch.no_grad()
def restored(lens: Any, texts: Sequence[str]) -> Tensor:
    longest = max(texts, key=lambda text: len(text.split()))
    assert len(longest.split()) <= lens.config.code_length, f"the encoder would not read all of {longest!r}"
    parts = [texts[i : i + 256] for i in range(0, len(texts), 256)]
    return torch.cat([lens.encoder(lens.reread(list(each))).float().cpu() for each in parts])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--run", required=True, type=Path, help="folder of a run on the model of pages")
    parser.add_argument("--activations", required=True, type=Path, help="folder of the rows that it was trained on")
    parser.add_argument("--rows", type=int, default=800, help="held-out pages (default: 800)")
    parser.add_argument("--training_rows", type=int, default=50_000, help="rows of the table (default: 50000)")
    parser.add_argument("--show", type=int, default=20, help="explanations that are printed (default: 20)")
    parser.add_argument("--every", action="store_true", help="ask what the untouched model does not answer, too")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of rows, questions and words")
    parser.add_argument("--subject", help="folder of the model, where it is none that the package trained")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    lens: Any = AutoLens.from_pretrained(options.run / "lens", options.subject, device_map=options.device)
    (site,), tokenizer, length = lens.config.sites, lens.subject.tokenizer, lens.config.code_length
    data = Activations.load(options.activations, verify=False)
    subject = Subject(lens.subject.model, tokenizer, site)
    pages = Rows.of(data.splits["test"], site, options.rows, options.seed)
    asked = questions(subject, pages, options.seed, options.every)
    if not asked.facts:
        parser.error("The model answers none of the questions: train it longer, or ask with --every.")
    rows = asked.rows
    clean: list[Any] = [None] * len(asked.facts)
    following = [0] * len(asked.facts)
    for part, log_p in subject.predict(rows, None, ahead=LONGEST):
        for i, each in zip(part, log_p, strict=True):
            clean[i], following[i] = each[-1], int(each[0].argmax())
    means, *_ = table_of(subject, data.splits["train"], site, options.training_rows)
    every = words_of(lens, site, pages.vectors)
    texts = [every[i] for i in asked.numbers]
    at_p = [ids[-1] for ids in rows.contexts]
    changes, others = changed([text.split() for text in texts], asked, options.seed, length)
    said, _ = subject.say(taken(rows, range(len(at_p)), [[] for _ in at_p]), length - 1)
    read = {"lens": texts, "facts": facts_in_words(rows, tokenizer.convert_ids_to_tokens(following), length)}
    read |= {"greedy": [tokenizer.decode([p, *ids]) for p, ids in zip(at_p, said, strict=True)]}
    read |= {"other page": [*texts[1:], *texts[:1]], **changes}
    place = {name: restored(lens, found) for name, found in read.items()}
    if (options.run / "warm_lens/config.json").is_file():
        before: Any = AutoLens.from_pretrained(options.run / "warm_lens", lens.subject)
        place["warm start"] = restored(before, words_of(before, site, rows.vectors))
    place["table"] = looked_up(means, at_p, following)[0]
    place["mean"] = means[None].expand_as(rows.vectors)
    documents = np.array(rows.documents)
    found = {name: answered(subject, asked, clean, vectors, others) for name, vectors in place.items()}
    zero, results = found["mean"]["kl"], []

    def mean(values: np.ndarray) -> str:
        return interval(documents, lambda n: (n * values).sum() / n.sum())

    def recovered(values: np.ndarray) -> str:
        return interval(documents, lambda n: 1 - (n * values).sum() / (n * zero).sum())

    for name, numbers in found.items():
        results.append(
            {
                "in A's place": name,
                "kl_asked": mean(numbers["kl"]),
                "recovered": recovered(numbers["kl"]),
                "says it": mean(numbers["right"]),
                "says the other": mean(numbers["other"]),
            }
        )
    note = f"{len(clean)} questions, of {len(pages.documents)} pages"
    show("asked behind the page", list(results[0]), [list(row.values()) for row in results], note)
    spoken = named([text.split() for text in every], pages, lambda ids: tokenizer.decode(list(ids)).split())
    show(
        f"the lens's words on {len(every)} pages, of what the next {len(pages.following[0])} tokens never say",
        ["", "share"],
        [list(pair) for pair in spoken.items()],
    )
    for i in random.Random(options.seed).sample(range(len(every)), min(options.show, len(every))):
        print(f"{tokenizer.decode(pages.contexts[i])}\n    -> {every[i]}")
    settings = {k: str(v) for k, v in vars(options).items() if k != "json"}
    report(options.json, options.device, settings, [*results, spoken])


if __name__ == "__main__":
    main()
