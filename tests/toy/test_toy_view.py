"""The toy family in the explorer: rows for people, with no view of its own and no line of the package."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from toy_family import FAMILY
from toy_runs import toy_lens, toy_models

from consistency_lens.auto import FAMILIES, view_of
from consistency_lens.base.comparing import apply_lens
from consistency_lens.base.viewing import Bars, Figures, LensView
from consistency_lens.errors import BadInput

gradio_client = pytest.importorskip("gradio_client", reason="the Space needs the extra 'space'")
sys.path.append(str(Path(__file__).parents[1] / "spaces_demo"))

TEXT = "w1 w2 w3 w4 w5"


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "toy", FAMILY)


def test_its_rows_are_those_of_the_comparison(known: None) -> None:
    lens = toy_lens().eval()
    view = view_of(lens)
    assert type(view) is LensView and "4 features of each token" in view.about()
    rows = view.rows(TEXT, view.positions(TEXT))
    assert [row["token"] for row in rows] == TEXT.split() and all(row["explanation"].startswith("f") for row in rows)
    applied = apply_lens(lens, toy_models(), lens.contexts_of([TEXT], [[3]]))
    before, after = applied.likeliest(toy_models().first.tokenizer, 0, 5, -1)
    assert rows[2]["kl"] == pytest.approx(float(applied.kl), rel=1e-4)
    assert [token for token, _ in rows[2]["after"]] == [token for token, _ in after]
    near = view.near(TEXT, 3)
    bars = next(part for part in near.parts if isinstance(part, Bars))
    assert (near.unit, near.token, list(near.controls)) == ("Token", "w3", [])
    assert [p for _, p in bars.before] == pytest.approx([p for _, p in before], rel=1e-4)
    assert isinstance(near.parts[0], Figures)
    for given in ({}, {"x": 1}):
        with pytest.raises(BadInput):
            view.changed(TEXT, 3, given)


def test_its_page_reads_scans_and_compares(known: None, tmp_path: Path) -> None:
    from family_pages import page_of
    from lenses import Lenses

    places = {}
    for name, model in toy_models().items():
        places[name] = str(tmp_path / name)
        model.model.save_pretrained(places[name])
        model.tokenizer.save_pretrained(places[name])
    lens = toy_lens()
    loaded = loaded_from(places)
    lens.config = type(lens).from_models(loaded).config
    lens.save_pretrained(tmp_path / "run/lens")
    page: Any = Lenses([str(tmp_path / "run")], subject=places)
    with page_of(page) as url:
        client = gradio_client.Client(url, verbose=False)
        strip, near, said = client.predict("run", TEXT, api_name="/read")
        assert strip.count("<button") == 5 and "Token 5" in near and "alert" not in said and "<form" not in near
        near, _ = client.predict(2, api_name="/open")
        assert "Token 2: <q>w2</q>" in near and "What the lens says" in near
        *_, said = client.predict("{}", api_name="/change")
        assert "something to change" in said
        *_, said = client.predict(2, "w1", 1.0, 0.0, 4, 0, api_name="/steer")
        assert "holds no words" in said
        _, table, *_ = client.predict("run", "run", api_name="/compare")
        assert [line[1] for line in table["data"]] == TEXT.split()


def loaded_from(places: dict[str, str]) -> Any:
    from consistency_lens import FrozenLM, FrozenModels

    return FrozenModels([FrozenLM.from_pretrained(place, name=name) for name, place in places.items()])
