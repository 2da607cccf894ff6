"""Cards: every fact arrives, foreign words stay words, and what a person wrote survives any number of rewrites."""

import ast
import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard, parse_eval_result_entries
from hypothesis import given, settings
from hypothesis import strategies as st

from consistency_lens import card as cards
from consistency_lens.card import (
    RESULTS,
    CardFacts,
    Control,
    Measured,
    Part,
    Section,
    merge_card,
    merging,
    model_card,
    readdress,
    render_card,
    rendering,
    write_card,
    write_results,
)
from consistency_lens.text.card import TEXT_CARD

ROOT = Path(__file__).resolve().parents[1]
DATASET_TEMPLATE = (ROOT / "consistency_lens/activations/dataset_card_template.md").read_text("utf-8")
HOSTILE = "a | b\n<script>x</script> <!-- /generated --> [l](u) `c` *s* {{ 7 * 7 }} ünï"


def row(context: str, explanation: str, token: str, kl: float, of_baseline: float | None) -> dict[str, Any]:
    predicted = [(token, 0.9)]
    shown = {"explanation": explanation, "before": predicted, "after": predicted}
    return {"context": context, **shown, "kl": kl, "kl_of_baseline": of_baseline}


def number(name: str, value: float = 0.75, definition: str = "as measured") -> Measured:
    return Measured(name=name, value=value, low=value - 0.05, high=value + 0.05, definition=definition)


def control(name: str, value: float, group: str, apart: Measured | None = None) -> Control:
    return Control(**dataclasses.asdict(number(name, value)) | {"group": group, "apart": apart})


@pytest.fixture
def facts() -> CardFacts:
    return CardFacts(
        name="tiny-lens",
        family="text",
        summary="Reads what the frozen model is about to say, in eight words.",
        subject="example/tiny",
        subject_revision="0123abc",
        base_model="example/tiny",
        sites=["resid_post.2"],
        code="8 tokens",
        sizes={"encoder": "0.9M trained parameters"},
        usage="print('a runnable snippet')\n",
        printed="a runnable snippet",
        verdict="The words carry what the model was thinking.",
        primary="kl_recovered",
        numbers=[number("kl_recovered"), number("fve", 0.5)],
        controls=[
            control("empty_text", 0.02, "not from A", number("empty_text", 0.73)),
            control("own_continuation", 0.4, "ahead"),
        ],
        parts=[Part(title="Where a fact comes next (12 rows)", numbers=[number("kl_recovered", 0.61)])],
        sections=[
            Section("Is it true?", [number("fact_precision", 0.22)]),
            Section("Is it language?", [number("paraphrase", 0.7)]),
        ],
        evaluated_on="stories",
        evaluated_split="test",
        evaluated_rows=2468,
        evaluated_documents=1234,
        good=[row("the red", "a ball that is red", "ball", 0.0123, 4.0)],
        bad=[row(HOSTILE, HOSTILE, HOSTILE, 2.5, None)],
        picked="Three of the best, three of the worst.",
        plots={"Fidelity over training": "plots/fidelity.png", "Position": "plots/position.png"},
        report="plots/report.md",
        limits=["It confuses green with blue."],
        training={"trainable": "lora", "steps": 600},
        cost={"GPU hours": 0.1, "peak memory (GB)": 1.5},
        command="accelerate launch run_lens.py train",
        corpus="Stories of a small world.",
        datasets=["example/stories"],
        counts={"train": (9000, 18000), "test": (1234, 2468)},
        near_duplicates={"train": 7},
        settings={"estimator": "policy"},
        history=[{"step": 1000, "kl_recovered": 0.5}, {"step": 2000, "kl_recovered": 0.75}],
        license="apache-2.0",
        license_note="Inherited from the frozen model.",
        citation="@misc{lens, title={A lens}}",
    )


@pytest.fixture
def dataset_facts() -> dict[str, Any]:
    return {
        "pretty_name": "Activations of tiny on stories",
        "license": "apache-2.0",
        "license_note": "Inherited from the stories.",
        "license_name": None,
        "license_link": None,
        "corpus": "stories, train",
        "corpus_id": None,
        "model": "example/tiny",
        "revision": "0123abc",
        "tokenizer_hash": "beef",
        "sites": ["resid_post.2", "mlp_out.1"],
        "dtype": "float16",
        "quantization": "none",
        "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
        "splits": {"train": {"documents": 9000, "rows": 18000}, "test": {"documents": 10, "rows": 20}},
        "columns": [{"name": "doc_id", "type": "int64", "meaning": "which document"}],
        "norms": {"resid_post.2": {"0.01": 1.0, "0.5": 2.25}, "mlp_out.1": {"0.01": 0.5, "0.5": 0.75}},
        "near_duplicates": {"train": 0, "test": 3},
        "location": "activations",
        "command": "accelerate launch run_lens.py extract",
    }


def test_the_packaged_template_is_the_one_at_top_level() -> None:
    assert cards.model_card_template() == (ROOT / "model_card_template.md").read_text("utf-8")
    assert len(cards.model_card_template()) > 1000


def test_the_hub_reads_base_model_datasets_and_tags(facts: CardFacts) -> None:
    text = model_card(facts)
    assert text.startswith("---\n") and "model-index" not in text
    data = ModelCard(text).data
    assert (data.base_model, data.datasets, data.license) == ("example/tiny", ["example/stories"], "apache-2.0")
    assert data.library_name == "consistency-lens" and {"consistency-lens", "text-lens"} <= set(data.tags or [])


def test_results_have_a_file_of_their_own(facts: CardFacts, tmp_path: Path) -> None:
    """In the form that the Hub's client reads, and only for a report on a data set of the Hub."""
    facts = dataclasses.replace(facts, dataset_revision="0" * 40)
    write_results(tmp_path, facts.results)
    (found,) = parse_eval_result_entries(yaml.safe_load((tmp_path / RESULTS).read_text("utf-8")))
    assert (found.dataset_id, found.dataset_revision, found.task_id) == ("example/stories", "0" * 40, "kl_recovered")
    assert found.value == 0.75
    assert found.notes == "95 % interval 0.700 to 0.800; 1234 documents, split test; best control empty_text 0.020"
    for changes in ({"datasets": []}, {"report": None}):
        without = dataclasses.replace(facts, **changes)
        assert without.results == []
        write_results(tmp_path, without.results)
        assert not (tmp_path / RESULTS).exists()


def test_the_first_screens_come_first(facts: CardFacts) -> None:
    """Install, use, numbers with the strongest control of each kind; what is longer is folded, and folds close."""
    more = [control(f"weaker_{i}", 0.01, "not from A") for i in range(9)]
    text = model_card(dataclasses.replace(facts, controls=[facts.controls[0], *more, facts.controls[1]]))
    places = [text.index(words) for words in ("pip install", "It prints", "## Numbers", "## Limits", "## Training")]
    assert places == sorted(places) and text.count("<details>") == text.count("</details>") == 5
    seen = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    assert "empty\\_text" in seen and "0.610" in seen and "own\\_continuation" not in seen and "weaker" not in seen
    assert text.count("weaker") == len(more) and len(seen.splitlines()) < 160


def test_several_parts_stand_in_one_table(facts: CardFacts) -> None:
    """With a column for all that any of them measured; and what a part did not measure is empty."""
    late = Part(title="Where it comes late (7 rows)", numbers=[number("kl_recovered", 0.5), number("em", 0.25)])
    text = model_card(dataclasses.replace(facts, parts=[*facts.parts, late])).replace("\N{NO-BREAK SPACE}", " ")
    table = text.partition("### Apart\n\n")[2].partition("\n\n###")[0].splitlines()
    assert table == [
        "| rows | kl\\_recovered | em |",
        "|---|---|---|",
        "| Where a fact comes next (12 rows) | 0.610 [0.560, 0.660] |  |",
        "| Where it comes late (7 rows) | 0.500 [0.450, 0.550] | 0.250 [0.200, 0.300] |",
    ]
    assert "### Apart" not in model_card(facts) and "### Where a fact comes next" not in text


def test_every_fact_is_on_the_card(facts: CardFacts) -> None:
    text = model_card(facts).replace("\N{NO-BREAK SPACE}", " ")
    for words in [
        *["Reads what the frozen model", "example/tiny", "0123abc", "resid\\_post.2", "8 tokens"],
        "a runnable snippet",
        *["0.750 [0.700, 0.800]", "| own\\_continuation | 0.400 [0.350, 0.450] |  |", "paraphrase", "0.9M trained"],
        *[
            "0.730 [0.680, 0.780]",
            "| *not from A* |",
            "### Where a fact comes next",
            "0.610 [0.560, 0.660]",
            "0.220 [",
        ],
        *[
            "2,468 rows of 1,234 documents",
            "**a ball that is red** | ball 0.90 | ball 0.90 | 0.012 (4.000) |",
            "Three of the best",
        ],
        *["(plots/fidelity.png)", "(plots/position.png)", "(plots/report.md)", "green with blue", "| steps | 600 |"],
        *["| GPU hours | 0.1 |", "| 1,000 | 0.500 |", "estimator: policy", "run_lens.py train", "small world"],
        *["| train | 9,000 | 18,000 | 7 |", "| test | 1,234 | 2,468 | not counted |", "Inherited", "@misc{lens"],
        *["| **the lens** | **0.750 [0.700, 0.800]** | | what this card is about |\n| *not from A* | | | |"],
        *["The words carry what", "It prints:\n\n```\na runnable snippet\n```"],
    ]:
        assert words in text, words
    assert "Content-blind" not in text
    assert text.index("### Controls") < text.index("(plots/fidelity.png)") < text.index("(plots/position.png)")
    few = [dataclasses.replace(facts.controls[0], low=None, high=None)]
    assert "Fewer than five documents" in model_card(dataclasses.replace(facts, controls=few))


def test_a_warning_stands_first(facts: CardFacts) -> None:
    verdict = "Content-blind: the tail does as well: 0.9."
    blind = ModelCard(model_card(dataclasses.replace(facts, alarm=True, verdict=verdict))).text
    assert blind.split("\n\n")[0].splitlines()[1] == "> **Content-blind**: the tail does as well: 0.9."
    assert blind.count("Content-blind") == 1


def test_a_lens_without_a_report_says_so_and_claims_nothing(facts: CardFacts) -> None:
    early = dataclasses.replace(
        facts, verdict=None, stage="At step 5.", numbers=[], controls=[], parts=[], sections=[], plots={}
    )
    text = model_card(early)
    assert "*At step 5.*" in text and "## Numbers" not in text and "model-index" not in text
    watched = Measured(name="kl_recovered", value=0.5, definition="d")
    text = model_card(dataclasses.replace(early, numbers=[watched]))
    assert "| kl\\_recovered | 0.500 | d |" in text and "Without intervals and controls" in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.98765, "0.988"), (-0.5, "-0.500"), (123.4, "123"), (0.000241, "0.00024"), (0.0, "0.000"), (1e-9, "0.000")],
)
def test_numbers_have_the_digits_that_they_carry(value: float, shown: str) -> None:
    assert rendering._number(value) == shown


def test_a_number_and_its_interval_have_the_same_decimals() -> None:
    for value, low, high, shown in [
        (0.0084, 0.0036, 0.0123, "0.008 [0.004, 0.012]"),
        (0.00024, 0.00016, 0.00036, "0.00024 [0.00016, 0.00036]"),
        (0.0, 0.0, 0.0, "0.000 [0.000, 0.000]"),
    ]:
        measured = Measured(name="x", value=value, low=low, high=high, definition="d")
        assert rendering._interval(measured) == shown.replace(" ", "\N{NO-BREAK SPACE}")


def test_what_a_snippet_holds_cannot_leave_its_block(facts: CardFacts) -> None:
    hostile = "```\n<!-- /generated -->\n````python\n<!-- generated: mine -->"
    text = model_card(dataclasses.replace(facts, usage=hostile, printed=hostile, command=hostile, citation=hostile))
    assert text.count("`````python\n```\n<!- /generated -->") == 1
    names = [found["name"] for found in cards.SECTION.finditer(text)]
    assert "mine" not in names and len(names) == text.count("<!-- /generated -->")
    assert merge_card(text, text) == text


def test_a_published_card_names_its_repository(facts: CardFacts) -> None:
    call = 'AutoLens.from_pretrained("run-7", subject="folder")'
    card = model_card(dataclasses.replace(facts, usage=call)) + f"\nBy hand: {call}\n"
    there = readdress(card, "someone/lens")
    assert 'AutoLens.from_pretrained("someone/lens", subject="folder")' in there
    assert there.endswith(f"\nBy hand: {call}\n") and readdress(there, "someone/lens") == there


def test_published_rows_name_their_repository(dataset_facts: dict[str, Any]) -> None:
    for location in ("rows", 'a "b" \\', "`<!-- /generated -->`"):
        card = render_card(DATASET_TEMPLATE, dataset_facts | {"location": location})
        there = readdress(card, "someone/rows")
        assert 'load_dataset("someone/rows").with_format' in there
        code = there.partition("```python\n")[2].partition("```")[0]
        names: list[str] = re.findall(r'load_from_disk\((".*")\)\.with_format', code)
        assert [ast.literal_eval(name) for name in names] == [location]


def test_a_command_cannot_leave_its_block(dataset_facts: dict[str, Any]) -> None:
    command = "run_lens.py extract --train_file '```\n<!-- /generated -->\n# mine'"
    text = render_card(DATASET_TEMPLATE, dataset_facts | {"command": command})
    assert "````bash\nrun_lens.py" in text and merge_card(text, text) == text
    assert text.count("<!-- /generated -->") == len(list(cards.SECTION.finditer(text)))


def test_hostile_names_add_no_metadata(facts: CardFacts, dataset_facts: dict[str, Any]) -> None:
    name = "x\n---\nlicense: stolen\u2028license: stolen: [}\n"
    model = ModelCard(model_card(dataclasses.replace(facts, base_model=name, evaluated_on=name, datasets=[name])))
    data = model.data.to_dict()
    assert (data["license"], data["base_model"], data["datasets"]) == ("apache-2.0", name, [name])
    rows = DatasetCard(render_card(DATASET_TEMPLATE, dataset_facts | {"pretty_name": name, "corpus_id": name}))
    data = rows.data.to_dict()
    assert (data["license"], data["pretty_name"], data["source_datasets"]) == ("apache-2.0", name, [name])
    for text in (str(model), str(rows)):
        assert merge_card(text, text) == text


@pytest.mark.parametrize(("family", "partial"), [("text", TEXT_CARD.partial), ("sparse", ""), ("soft", "")])
def test_least_facts_for_each_family(facts: CardFacts, family: str, partial: str) -> None:
    needed = {
        f.name: vars(facts)[f.name]
        for f in dataclasses.fields(facts)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    text = model_card(CardFacts(**needed | {"family": family, "partial": partial}))
    assert "base_model" not in text and "## Explanations" not in text and "\n\n\n" not in text
    assert f"{family}-lens" in text and "is measured by what" in text
    assert ("words come out" in text) == bool(partial)


def test_the_partial_of_a_family_takes_the_place_of_blocks(facts: CardFacts) -> None:
    """What the frame says holds for all; the words of the text lens are on its own card alone."""
    frame, text = model_card(facts), model_card(dataclasses.replace(facts, partial=TEXT_CARD.partial))
    assert "## Examples" in frame and "## Explanations" not in frame and "one place" not in frame
    assert "## Explanations" in text and "## Examples" not in text and "KL (of the mean)" in text
    rows = [line for line in text.splitlines() if line.startswith(("| good |", "| bad |"))]
    assert rows == [line for line in frame.splitlines() if line.startswith(("| good |", "| bad |"))] and len(rows) == 2
    for card in (frame, text):
        assert merge_card(card, card) == card and card.count("- The numbers hold for text") == 1
        assert cards.SECTION.sub("", card).count("generated") == 0
    assert "\n\n\n" not in text


def test_foreign_words_stay_words(facts: CardFacts) -> None:
    text = model_card(facts)
    row = next(line for line in text.splitlines() if line.startswith("| bad |"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 7
    assert "<script>" not in text and "](u)" not in row.replace("\\]", "") and "{{ 7" in row and "ünï" in row
    names = [found["name"] for found in cards.SECTION.finditer(text)]
    assert names.count("samples") == 1 and text.count("<!-- /generated -->") == len(names)


def test_primary_must_be_measured(facts: CardFacts) -> None:
    with pytest.raises(ValueError, match="primary='cosine' is none of the numbers"):
        dataclasses.replace(facts, primary="cosine")


@pytest.mark.parametrize("missing", ["norms", "license", "corpus_id", "command"])
def test_a_missing_key_raises(dataset_facts: dict[str, Any], missing: str) -> None:
    del dataset_facts[missing]
    with pytest.raises(jinja2.UndefinedError, match=missing):
        render_card(DATASET_TEMPLATE, dataset_facts)


def test_dataset_card_is_whole(dataset_facts: dict[str, Any]) -> None:
    text = render_card(DATASET_TEMPLATE, dataset_facts)
    data = DatasetCard(text).data.to_dict()
    assert data["configs"] == [
        {
            "config_name": "default",
            "data_files": [{"split": s, "path": f"{s}/*.arrow"} for s in ("train", "test")],
        }
    ]
    assert data["license"] == "apache-2.0" and not {"source_datasets", "license_link"} & set(data)
    assert "\napache-2.0. Inherited from the stories.\n" in text
    assert "| train | 9,000 | 18,000 | 0 |\n| test | 10 | 20 | 3 |" in text
    assert "| site | 0.01 | 0.5 |\n|---|---|---|\n| resid\\_post.2 | 1 | 2.25 |\n| mlp\\_out.1 | 0.5 | 0.75 |" in text
    assert "torch 2.13.0, transformers 5.23.0" in text and 'load_from_disk("activations")' in text


def test_datasets_loads_a_folder_by_its_card(dataset_facts: dict[str, Any], tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

    folder = tmp_path / "activations"
    rows = {split: Dataset.from_dict({"doc_id": ids}) for split, ids in {"train": [0, 1], "test": [2]}.items()}
    DatasetDict(rows).save_to_disk(folder)
    write_card(folder, render_card(DATASET_TEMPLATE, dataset_facts))
    loaded = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {split: loaded[split]["doc_id"][:] for split in loaded} == {"train": [0, 1], "test": [2]}
    assert load_from_disk(folder)["train"]["doc_id"][:] == [0, 1]


NEW = (
    "---\nlicense: mit\ntags:\n- a\n---\n<!-- generated: one -->\n1\n<!-- /generated -->\n\n"
    "<!-- generated: two -->\n2\n<!-- /generated -->\n"
)


def by_hand(text: str) -> str:
    """A card as a person leaves it: own metadata, own words before, between and after, odd spacing and line ends."""
    return (
        text.replace("license: mit\n", "# mine\nlanguage: [de,   en]\nextra:\n  deep: 'x'  # kept\nlicense: old\n")
        .replace("<!-- generated: one -->\n1", "  hello \t\r\n\n<!-- generated: one -->\nold, and edited inside")
        .replace("<!-- generated: two -->", "between: <b>us</b>\n\n\n<!-- generated: two -->")
    ) + "the end, no newline at the end"


def test_what_a_person_wrote_survives() -> None:
    merged = merge_card(NEW, by_hand(NEW))
    for words in [
        *["# mine\nlanguage: [de,   en]\nextra:\n  deep: 'x'  # kept\n", "---\n  hello \t\r\n\n<!-- generated: one"],
        *["between: <b>us</b>\n\n\n<!-- generated: two -->", "<!-- /generated -->\nthe end, no newline at the end"],
    ]:
        assert words in merged, words
    assert "edited inside" not in merged and "license: old" not in merged
    assert yaml.safe_load(merging._split(merged)[0])["extra"] == {"deep": "x"}


def test_outside_the_markers_not_a_byte_moves() -> None:
    existing = by_hand(NEW)
    outside = [cards.SECTION.sub("§", merging._split(text)[1]) for text in (existing, merge_card(NEW, existing))]
    assert outside[0] == outside[1]


@pytest.mark.parametrize("existing", [None, "", "\n", NEW, by_hand(NEW), "# Mine alone", "---\na: 1\n---\nMine"])
def test_merging_twice_is_merging_once(existing: str | None) -> None:
    once = merge_card(NEW, existing)
    assert merge_card(NEW, once) == once
    assert "1\n<!-- /generated -->" in once and "license: mit" in once


def test_a_card_without_markers_is_kept_above_ours() -> None:
    assert merging._split(merge_card(NEW, "# Mine alone"))[1].startswith("# Mine alone\n\n<!-- generated: one -->")


@pytest.mark.parametrize("order", list(itertools.permutations(["one", "two", "three"])))
def test_sections_come_and_go(order: tuple[str, ...]) -> None:
    def section(name: str) -> str:
        return f"<!-- generated: {name} -->\n{name}\n<!-- /generated -->"

    whole = "\n\n".join(map(section, order)) + "\n"
    for left in order:
        reduced = merge_card(section(left), whole + "mine")
        assert [found["name"] for found in cards.SECTION.finditer(reduced)] == [left] and reduced.endswith("mine")
        assert [found["name"] for found in cards.SECTION.finditer(merge_card(whole, section(left)))] == list(order)


def test_an_unclosed_marker_costs_no_words() -> None:
    merged = merge_card(NEW, "<!-- generated: one -->\nmine\n\n<!-- generated: two -->\nold\n<!-- /generated -->\n")
    assert "mine" in merged and "old" not in merged and "1\n<!-- /generated -->" in merged


def test_results_do_not_outlive_their_measurement() -> None:
    assert "model-index" not in merge_card(NEW, "---\nmodel-index:\n- name: x\n  results: []\nmine: 1\n---\n")


def test_a_folder_without_a_card_begins_with_the_words_of_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "old.md").write_text(by_hand(NEW), "utf-8", newline="")
    path = write_card(tmp_path, NEW, earlier=tmp_path / "old.md")
    assert path.read_bytes().decode() == merge_card(NEW, by_hand(NEW)) and "between: <b>us</b>" in path.read_text()
    path.write_text("Mine alone", "utf-8")
    assert "between" not in write_card(tmp_path, NEW, earlier=tmp_path / "old.md").read_text()


def test_write_card_keeps_bytes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"Mine\r\n\xc3\xbc\xff")
    assert write_card(tmp_path, NEW) == tmp_path / "README.md"
    assert (tmp_path / "README.md").read_bytes().split(b"---\n")[2].startswith(b"Mine\r\n\xc3\xbc\xff")
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_failed_write_leaves_the_old_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_card(tmp_path, NEW)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merging.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_card(tmp_path, NEW.replace("1", "one"))
    assert (tmp_path / "README.md").read_text("utf-8") == NEW
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.sets(st.sampled_from("bcde")), min_size=1, max_size=5), st.booleans())
def test_sections_that_come_and_go_leave_no_gap(rounds: list[set[str]], by_hand: bool) -> None:
    """A run that is resumed writes its card anew, first without the sections of its report."""

    def card(names: str | set[str]) -> str:
        given = [name for name in "abcde" if name in {*names, "a"}]
        parts = [f"<!-- generated: {name} -->\n{name}\n<!-- /generated -->" for name in given]
        return "---\nlicense: mit\n---\n" + "\n\n".join(parts) + "\n"

    words = "\n\nSomebody's own words.\n" if by_hand else ""
    kept = card("abcde") + words
    for names in rounds:
        kept = merge_card(card(names), kept)
    assert merge_card(card("abcde"), kept) == card("abcde") + words
