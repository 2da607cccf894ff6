"""Names of before say what stands in their place: as an argument, as an option and in a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from consistency_lens.auto import FAMILIES
from consistency_lens.cli.parsing.options import Options, options_of
from consistency_lens.cli.parsing.recipes import load_recipe
from consistency_lens.cli.parsing.request import parse
from consistency_lens.errors import BadInput
from consistency_lens.options import Former

FORMER = [(options_of(family), name) for family in FAMILIES for name in options_of(family).former]


def test_there_are_some_and_none_is_in_use() -> None:
    assert {"anchor", "replay_weight"} <= {name for _, name in FORMER}
    assert not [name for options, name in FORMER if name in options.names]


@pytest.mark.parametrize(("options", "name"), FORMER, ids=[name for _, name in FORMER])
def test_one_that_is_gone_says_what_stands_in_its_place(options: Options, name: str, tmp_path: Path) -> None:
    former, recipe = options.former[name], tmp_path / "old.yaml"
    for act in (
        lambda: options.training(str(tmp_path), **{name: "0.5"}),
        lambda: parse(["train", f"--family={options.family}", f"--{name}=0.5"]),
    ):
        with pytest.raises(BadInput, match="there is no such option any more") as caught:
            act()
        assert caught.value.fix == former.instead
    recipe.write_text(f"family: {options.family}\n{name}: '{former.off or 0.5}'\n")
    assert load_recipe(str(recipe)) == {"family": options.family}, "where it did nothing, an old recipe still loads"
    if former.off is not None:
        recipe.write_text(f"family: {options.family}\n{name}: '0.5'\n")
        with pytest.raises(BadInput, match="any more"):
            load_recipe(str(recipe))


def test_what_is_not_gone_is_made_as_ever(tmp_path: Path) -> None:
    made = options_of("text").training(str(tmp_path), rollouts=2, use_cpu=True, report_to="none")
    assert made.rollouts == 2 and made.former["anchor"] == Former(made.former["anchor"].instead, "none")


def test_a_method_of_before_says_its_name() -> None:
    for family in FAMILIES.values():
        with pytest.raises(BadInput, match=r"its name is describe\. Call describe"):
            family.load("model").spell(None, [])
