"""What starting texts of `warm_start=evidence` cost, beside the extraction of the rows that they are for.

    python benchmarks/evidence.py                          # 10,000 rows of the offline model, minutes on one core
    python benchmarks/evidence.py --stories 100 --rounds 1

Stories of the demo world are extracted into a folder that is thrown away; then the texts of all its rows are made.
Both run in this process and are timed by the processor's own clock: a busy machine has no other. `ratio` is over the
extraction of the same round; the target is at most 1. `words` is how many words of evidence a text has, `worth` what
one of them changes in nats, to first order. On the first rows the slow way is run, too, which hides words one by one:
`exact` is how many times longer it takes there, and `agreement` the share of its words that the fast way names.

    python benchmarks/evidence.py --untrained              # a model of that size without its training: cost alone
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from harness import arguments, report, show

from consistency_lens.activations import Activations, Corpus, CorpusArguments, ExtractArguments, Extraction
from consistency_lens.demo.probe import DEMO_SITE
from consistency_lens.demo.stories import story_dataset
from consistency_lens.demo.subject import new_model, subject_path
from consistency_lens.demo.tokenizer import build_tokenizer
from consistency_lens.demo.training import SubjectConfig
from consistency_lens.frozen import FrozenLM
from consistency_lens.text.configuration import ConsistencyLensConfig
from consistency_lens.text.starting.evidence import Evidence, agreement, evidence_of

TARGET = 1.0
SAMPLE = 512  # rows whose words are hidden one by one, too
FIRST = 500_000_000  # stories that nobody else reads


def extracted(frozen: FrozenLM, site: str, stories: int, seed: int, folder: Path) -> Activations:
    """Eight rows of each story."""
    corpus = Corpus(story_dataset(stories, seed, FIRST), CorpusArguments(), "stories")
    given = ExtractArguments(sites=[site], output_dir=str(folder), positions_per_document=8, test_fraction=0.0)
    extraction = Extraction(corpus, frozen.tokenizer, frozen.model.config, given)
    extraction.open()
    return Activations.load(extraction.run(frozen), verify=False)


def contexts_of(rows: Activations) -> list[torch.Tensor]:
    """Of all rows, those of one document side by side."""
    every = [split.with_format("torch", columns=["input_ids"])["input_ids"][:] for split in rows.splits.values()]
    return sorted((ids for split in every for ids in split), key=lambda ids: ids.numpy().tobytes())


def texts_of(
    contexts: list[torch.Tensor], frozen: FrozenLM, config: ConsistencyLensConfig, share: float
) -> list[Evidence]:
    """In batches of documents."""
    return [evidence_of(contexts[i : i + 512], config, frozen, share) for i in range(0, len(contexts), 512)]


def run(frozen: FrozenLM, site: str, options: Any) -> list[dict[str, Any]]:
    config = ConsistencyLensConfig.for_subject(frozen, site, code_length=options.length)
    rounds: list[dict[str, Any]] = []
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as place:
            start = time.process_time()
            rows = extracted(frozen, site, options.stories, number, Path(place) / "rows")
            read = time.process_time()
            contexts = contexts_of(rows)
            made = texts_of(contexts, frozen, config, options.share)
            done = time.process_time()
        few = contexts[:SAMPLE]
        begun = time.process_time()
        fast = evidence_of(few, config, frozen, options.share)
        between = time.process_time()
        exact = evidence_of(few, config, frozen, options.share, exact=True)
        slower = (time.process_time() - between) / (between - begun)
        worth = [nats for part in made for row in part.worth for _, nats in row]
        count = sum(len(part.worth) for part in made)
        seconds = {"extraction s": read - start, "texts s": done - read, "ratio": (done - read) / (read - start)}
        twin = {"exact": slower, "agreement": agreement(fast, exact)}
        found = {"words": len(worth) / count, "worth": mean(worth or [0.0])}
        rounds.append({"rows": count, **seconds, **found, **twin})
    return rounds


def untrained() -> FrozenLM:
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    return FrozenLM(new_model(SubjectConfig(), tokenizer), tokenizer, "untrained")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--stories", type=int, default=1250, help="stories, of eight rows each (default: 1250)")
    parser.add_argument("--length", type=int, default=8, help="T, tokens of a text (default: 8)")
    parser.add_argument("--share", type=float, default=0.5, help="share of a text for evidence (default: 0.5)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, each of other stories (default: 3)")
    parser.add_argument("--untrained", action="store_true", help="take the offline model as it is before training")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    results = run(untrained() if options.untrained else FrozenLM.from_pretrained(subject_path()), DEMO_SITE, options)
    ratio = median(row["ratio"] for row in results)
    note = f"median ratio {ratio:.2f}, target {TARGET:g}: {'met' if ratio <= TARGET else 'missed'}"
    show(f"evidence of {results[0]['rows']} rows", list(results[0]), [list(row.values()) for row in results], note)
    settings = {k: v for k, v in vars(options).items() if k != "json"}
    report(options.json, options.device, settings | {"target": TARGET, "median ratio": ratio}, results)


if __name__ == "__main__":
    main()
