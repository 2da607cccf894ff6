"""Texts that describe another fact are what their names say, and are asked only where a fact is held."""

from __future__ import annotations

import random
from dataclasses import asdict

from consistency_lens.demo.judging.sentences import LONGEST, FactSentences, said_otherwise
from consistency_lens.demo.reword import mentions
from consistency_lens.demo.stories import stories
from consistency_lens.demo.tokenizer import vocabulary
from consistency_lens.demo.words import KINDS


def test_each_way_describes_another_value_of_the_needed_kind() -> None:
    known, rng = vocabulary(), random.Random(0)
    for kind, values in KINDS.items():
        for value in values:
            said = said_otherwise(f"a {value} . the clock struck", kind, value, rng)
            assert {"written", "sentence", "slot", "order", "two", "negation", "nothing"} <= set(said)
            for way, asked in said.items():
                words = asked.text.split()
                assert 0 < len(words) <= LONGEST and set(words) <= set(known), (way, asked.text)
                assert asked.word in values and asked.word != value
                named = {(m.kind, m.value) for m in mentions(asked.text)}
                assert (kind, value) not in named, (way, asked.text)
                assert ((kind, asked.word) in named) == (way != "nothing"), (way, asked.text)
            assert ("synonym" in said) == bool(values[said["written"].word])
            if "synonym" in said:
                assert said["synonym"].word not in said["synonym"].text.split()
            new = said["written"].word
            assert said["written"].text == f"a {new} . the clock struck"
            assert said["negation"].text == f"a not {new} . the clock struck"
            assert said["slot"].text.split().index(new) != 1
            assert sorted(said["order"].text.split()) == sorted(said["written"].text.split())
            assert said["order"].text != said["written"].text
            assert len(mentions(said["two"].text)) == 2


def test_only_what_the_model_says_is_asked() -> None:
    story = stories(1, seed=3)[0]
    spots = story.fact_positions
    rows = {
        "position": [spots[0].position, spots[0].position, 20],
        "facts": [[asdict(fact) for fact in story.facts]] * 3,
        "fact_positions": [[asdict(spot) for spot in spots]] * 3,
    }
    value = story.facts[spots[0].fact].value
    found = FactSentences().texts([f"a {value} ."] * 3, [value, "the", value], rows, seed=1)
    assert set(found) == set(FactSentences.ways)
    for way, texts in found.items():
        assert texts[1:] == [None, None], way
    assert all(found[way][0] is not None for way in ("written", "sentence", "slot", "two", "nothing"))
    assert found == FactSentences().texts([f"a {value} ."] * 3, [value, "the", value], rows, seed=1)
    bare = FactSentences().texts(["the clock"] * 3, [value] * 3, rows, seed=1)
    assert bare["written"][0] is None and bare["sentence"][0] is not None, (
        "a text without the fact has no word to move"
    )
