"""The world keeps its word: every invariant of a story, over thousands of them."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from consistency_lens.demo.grammar import FILLERS, NEEDED, STATED, SUMMARY
from consistency_lens.demo.stories import (
    MAX_TOKENS,
    MIN_TOKENS,
    VAGUE_SHARE,
    WINDOW,
    Story,
    short_tale,
    stories,
    story,
    story_dataset,
)
from consistency_lens.demo.tokenizer import build_tokenizer, vocabulary
from consistency_lens.demo.words import FACT_WORDS, KINDS, LEXICON, NEUTRAL, VAGUE, wordings
from consistency_lens.errors import BadInput

NUM_STORIES = 3000


@pytest.fixture(scope="module")
def rows() -> list[Story]:
    return stories(NUM_STORIES, seed=0)


def test_length_with_bos(rows: list[Story]) -> None:
    lengths = [len(row.words) + 1 for row in rows]
    assert MIN_TOKENS == 60 and MAX_TOKENS == 120
    assert min(lengths) >= MIN_TOKENS and max(lengths) <= MAX_TOKENS


def test_words_are_lower_case_and_known(rows: list[Story]) -> None:
    vocab = vocabulary()
    for row in rows:
        assert row.text == row.text.lower() == " ".join(row.words)
        assert all(word in vocab for word in row.words)


def test_facts_are_where_they_are_said_to_be(rows: list[Story]) -> None:
    for row in rows:
        assert [fact.stated_at for fact in row.facts] == sorted(fact.stated_at for fact in row.facts)
        for fact in row.facts:
            assert FACT_WORDS[row.words[fact.stated_at - 1]] == (fact.kind, fact.value)


def test_every_fact_word_is_a_fact_of_the_story(rows: list[Story]) -> None:
    for row in rows:
        facts = {(fact.kind, fact.value) for fact in row.facts}
        assert {FACT_WORDS[word] for word in row.words if word in FACT_WORDS} == facts


def test_fact_positions_point_at_canonical_words_stated_earlier(rows: list[Story]) -> None:
    for row in rows:
        tokens = ["<bos>", *row.words]
        assert row.fact_positions
        for spot in row.fact_positions:
            fact = row.facts[spot.fact]
            assert tokens[spot.position + 1] == fact.value
            assert fact.stated_at < spot.position + 1 - WINDOW


def test_the_last_tokens_never_hold_what_is_needed(rows: list[Story]) -> None:
    assert WINDOW >= 8
    for row in rows:
        tokens = ["<bos>", *row.words]
        for spot in row.fact_positions:
            fact = row.facts[spot.fact]
            recent = tokens[max(0, spot.position - WINDOW + 1) : spot.position + 1]
            assert not set(recent) & set(wordings(fact.kind, fact.value))


def test_the_last_tokens_do_not_foretell_the_value(rows: list[Story]) -> None:
    """A table from the last three words, taught on one half, is near chance on the other half."""
    tables: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    right = total = 0
    for index, row in enumerate(rows):
        for spot in row.fact_positions:
            recent = tuple(row.words[spot.position - 3 : spot.position])
            value = row.facts[spot.fact].value
            if index < NUM_STORIES // 2:
                tables[recent][value] += 1
            elif tables[recent]:
                right += tables[recent].most_common(1)[0][0] == value
                total += 1
    assert total > 1000
    assert right / total < 0.15


def _clauses() -> list[list[str]]:
    """All sentences of the grammar, free choices spelled out as one token."""
    tables = (STATED, NEEDED, SUMMARY)
    return [s.split() for s in (*FILLERS, *(s for table in tables for group in table for s in table[group]))]


def _plain(clause: list[str]) -> tuple[str, ...]:
    """A clause without the marks on its slots."""
    return tuple(token.replace("~", "") for token in clause)


def test_the_cue_settles_which_kind_comes() -> None:
    """Wherever the grammar needs a fact, no other sentence that begins alike goes on in another way."""
    after: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for clause in map(_plain, _clauses()):
        for i, token in enumerate(clause):
            after[clause[:i]].add(token)
    checked = 0
    for clause in [s.split() for table in (NEEDED, SUMMARY) for group in table for s in table[group]]:
        for i, token in enumerate(clause):
            if token.startswith("{") and not token.startswith("{~"):
                assert after[_plain(clause)[:i]] == {_plain(clause)[i]}, clause
                checked += 1
    assert checked > 30


def test_kinds_are_told_apart_by_their_words() -> None:
    assert 7 <= len(KINDS) <= 9
    words = [word for kind, values in KINDS.items() for value in values for word in wordings(kind, value)]
    assert len(words) == len(set(words)) == len(FACT_WORDS)
    assert all(8 <= len(values) <= 12 for values in KINDS.values())
    plain = {t for clause in _clauses() for t in clause if t[0] not in "[{"}
    assert not (plain | set(NEUTRAL) | {w for words in LEXICON.values() for w in words}) & set(FACT_WORDS)
    assert not [word for kind in ("friend", "animal", "object", "colour") for v in KINDS[kind]
                for word in wordings(kind, v) if word[0] in "aeiou"]  # "a" must not give the answer away  # fmt: skip


def test_one_value_of_a_kind(rows: list[Story]) -> None:
    """Nothing to bind: the frozen model does not learn binding in its three minutes."""
    for row in rows:
        kinds = [fact.kind for fact in row.facts]
        assert len(kinds) == len(set(kinds)) and kinds[0] == "hero"


def test_what_a_story_leaves_open_is_no_fact_of_it(rows: list[Story]) -> None:
    """Said in one word that is likelier than any value, and never needed."""
    told = Counter(word for row in rows for word in row.words if word == VAGUE)[VAGUE]
    stated = Counter((fact.kind, fact.value) for row in rows for fact in row.facts if fact.kind != "hero")
    share = told / (told + stated.total())
    assert abs(share - VAGUE_SHARE) < 0.01
    of_a_value = {kind: max(n for (k, _), n in stated.items() if k == kind) for kind, _ in stated}
    of_a_kind = {kind: sum(n for (k, _), n in stated.items() if k == kind) for kind in of_a_value}
    assert all(of_a_value[kind] / of_a_kind[kind] * (1 - VAGUE_SHARE) < VAGUE_SHARE for kind in of_a_value)
    assert VAGUE not in FACT_WORDS


def test_free_choices_are_as_common_as_words_are(rows: list[Story]) -> None:
    counts = Counter(word for row in rows for word in row.words)
    for choices in (LEXICON["weather"], LEXICON["number"], LEXICON["noise"]):  # no other sentence says these
        found = [counts[word] + counts[NEUTRAL.get(word, "")] for word in choices]
        assert found == sorted(found, reverse=True) and found[0] > 2 * found[1] > 0


def test_every_kind_is_needed_and_every_wording_used(rows: list[Story]) -> None:
    needed = Counter(row.facts[spot.fact].kind for row in rows for spot in row.fact_positions)
    assert set(needed) == set(KINDS) and min(needed.values()) > NUM_STORIES / 5
    assert {word for row in rows for word in row.words if word in FACT_WORDS} == set(FACT_WORDS)


def test_deterministic_and_independent_of_the_others() -> None:
    assert stories(5, seed=3, start=10)[2] == story(3, 12) == story(3, 12)
    assert story(3, 12).text != story(4, 12).text != story(4, 13).text
    assert story(0, 0).text.startswith("once there was a child named nora . the child had a wagon ,")


def test_short_tales_keep_the_same_promises() -> None:
    for index in range(300):
        row = short_tale(0, index, 1 + index % 3)
        tokens = ["<bos>", *row.words]
        for spot in row.fact_positions:
            assert tokens[spot.position + 1] == row.facts[spot.fact].value


def test_no_two_stories_alike(rows: list[Story]) -> None:
    assert len({row.text for row in rows}) == len(rows)


def test_rows_of_the_dataset() -> None:
    dataset = story_dataset(7, seed=1, start=3)
    assert dataset.column_names == ["doc_id", "text", "facts", "fact_positions"]
    assert dataset.features["doc_id"].dtype == "int64"
    row, same = dataset[2], story(1, 5)
    assert (row["doc_id"], row["text"]) == (5, same.text)
    assert row["facts"][0] == {
        "kind": "hero", "value": same.facts[0].value, "stated_at": same.facts[0].stated_at,
    }  # fmt: skip
    assert [(spot["position"], spot["fact"]) for spot in row["fact_positions"]] == [
        (spot.position, spot.fact) for spot in same.fact_positions
    ]


def test_asking_for_no_story_is_refused() -> None:
    with pytest.raises(BadInput, match="num_stories=0"):
        story_dataset(0)


def test_tokenizer_round_trip_and_one_bos(rows: list[Story]) -> None:
    tokenizer = build_tokenizer()
    assert 200 <= len(tokenizer) <= 400
    assert [tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token] == [
        "<pad>", "<bos>", "<eos>", "<unk>",
    ]  # fmt: skip
    for row in rows[:200]:
        ids = tokenizer(row.text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
        assert len(ids) == len(row.words) + 1 and tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == row.text
        assert tokenizer.decode(ids[1:]) == row.text
        assert tokenizer(row.text, add_special_tokens=False)["input_ids"] == ids[1:]


def test_tokenizer_survives_saving(tmp_path) -> None:
    from transformers import AutoTokenizer

    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = story(0, 0).text
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"], skip_special_tokens=True) == text
    assert (loaded.pad_token_id, loaded.bos_token_id, loaded.eos_token_id, loaded.unk_token_id) == (0, 1, 2, 3)


def test_a_decoder_prompt_needs_no_unknown_word() -> None:
    tokenizer = build_tokenizer()
    assert tokenizer.unk_token_id not in tokenizer("short explanation of this : it means , in short :")["input_ids"]


def test_describe_shows_all_facts() -> None:
    from rich.console import Console

    from consistency_lens.demo.show import describe

    row = story(0, 0)
    console = Console(width=110, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(describe(row))
    shown = console.export_text()
    assert "story 0" in shown
    assert all(fact.value in shown for fact in row.facts)
