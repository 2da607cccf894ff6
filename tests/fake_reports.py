"""Reports made from values per row, or number by number: nothing is run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from consistency_lens.evaluation import Number, Report
from consistency_lens.evaluation.assemble import assemble
from consistency_lens.evaluation.bootstrap import Records, Samples
from consistency_lens.text.report import TextReport
from consistency_lens.text.report.definitions import of_code

ROWS = 200
ON_FACTS = np.arange(ROWS) % 4 == 0
GROUPS = {"own_continuation": "ahead", "lens": "lens", "self": "edit", "mean": "edit"}
GROUPS |= dict.fromkeys(["reworded", "paraphrase", "truncation_1"], "tampered")
GROUPS |= {"greedy": "ahead", "greedy_trained": "ahead", "table": "two_tokens", "probes": "two_tokens"}
GROUPS |= {f"slot_{i}": "slots" for i in range(1, 9)} | {"slot_1_dropped": "slots"}


class Worded(TextReport):
    """Its judges are no more than their definitions."""

    judged: Mapping[str, str] = {}  # type: ignore[assignment]


def report_of(
    scores: Mapping[str, float],
    fve: float = 0.8,
    on_facts: Mapping[str, float] | None = None,
    spread: float = 0.02,
    training: Sequence[Mapping[str, Any]] = (),
    asked: Mapping[str, float] | None = None,
) -> Report:
    """Codes that recover so much; `on_facts` where they do otherwise on every fourth row; `asked` for what comes
    later, behind which they recover so much and are as often right."""
    rng, records = np.random.default_rng(0), Records()
    groups: dict[str, list[str]] = {}
    for code, score in {"self": 1.0, "mean": 0.0, **scores}.items():
        groups.setdefault(GROUPS.get(code, "text"), []).append(code)
        kl = np.full(ROWS, 1 - score)
        if on_facts and code in on_facts:
            kl[ON_FACTS] = 1 - on_facts[code]
        noise = spread * rng.normal(size=ROWS) if GROUPS.get(code) != "edit" else 0.0
        measures = {"kl": kl + noise, "kl_horizon": kl, "top1": np.full(ROWS, max(score, 0.0))}
        measures["squared_error"] = np.full(ROWS, 1 - fve)
        if asked:
            later = np.full(ROWS, asked.get(code, 1.0 if code == "self" else 0.0))
            measures |= {"kl_asked": 1 - later, "asked_recall": later}
        records.add(code, {name: torch.from_numpy(value) for name, value in measures.items()})
    records.add("row", {"spread": torch.ones(ROWS)})
    samples = Samples(records, np.arange(ROWS) // 2, {"fact_positions": ON_FACTS} if on_facts else {})
    data = {"split": "test", "rows": ROWS, "documents": 100, "documents_of_split": 100, "seconds": 1.0}
    family = Worded()
    family.judged = {"fact_positions": "a fact comes next"} if on_facts else {}
    return assemble(
        samples,
        family,
        groups,
        {code: of_code(code) for codes in groups.values() for code in codes},
        np.arange(ROWS),
        8,
        lens={"family": "consistency_lens", "subject": "tiny", "sites": ["resid_post.1"]},
        data=data | {"near_duplicates_of_split": 3, "stored_difference": 1e-7, "corpus": "made up"},
        training=training,
    )


def narrow(value: float) -> Number:
    return Number(value, value - 0.01, value + 0.01)


def words_report() -> Report:
    """Of a text lens: eight words of three bits each."""
    report = report_of({"lens": 0.9, "truncation_1": 0.3, "truncation_4": 0.7, "context_tail": 0.5})
    report.traits.update(text_nll=narrow(3 * math.log(2)), length=narrow(8.0))
    return report


def as_if(family: str, **scores: float) -> Report:
    report = report_of({"lens": 0.9})
    report.lens["family"] = family
    report.parts["all"].numbers.update({code: {"kl_recovered": narrow(score)} for code, score in scores.items()})
    return report


def features_report() -> Report:
    """Of a transcoder of two layers with ten active features each: 100 bits say which, 8 bits the value of each."""
    report = as_if("crosslayer_transcoder", values_4=0.6, values_8=0.89, pca=0.4)
    report.lens["sites"] = ["resid_mid.0", "resid_mid.1"]
    report.parts["all"].numbers["lens"].update(rate=narrow(260.0), l0=narrow(10.0))
    report.traits["value_bits"] = narrow(8.0)
    return report


def soft_report() -> Report:
    """Of a wire: passages of 16 tokens in 4 vectors."""
    report = as_if("latent_wire", **{"int4": 0.8, "8x int4": 0.5, "first": 0.2, "shuffled": -0.5})
    report.traits.update(vectors=narrow(4.0), tokens_per_vector=narrow(4.0))
    sizes = {"lens": 100.0, "int4": 40.0, "8x int4": 20.0, "first": 10.0, "text": 60.0}
    report.judged.update({code: {"bytes": narrow(size)} for code, size in sizes.items()})
    return report
