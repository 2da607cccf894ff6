"""`explain --layers` shows tokens and layers of a lens of several sites: a table, JSON, a file."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from extracting import saved_model
from lens_runs import SITES, lens_of_layers, stirred, tiny_lens
from rich.console import Console

from consistency_lens import AutoLens, FrozenLM, cli
from consistency_lens.cli.commands.explain import table_of
from consistency_lens.text.running import TextRun

TEXT = "w1 w2 w3 w4"


@pytest.fixture(scope="module")
def lens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layers") / "lens"
    stirred(lens_of_layers(FrozenLM.from_pretrained(saved_model()))).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rows(lens: Path) -> list[dict[str, Any]]:
    """What Python says of the text."""
    found = AutoLens.from_pretrained(lens, saved_model()).explain(TEXT, layers="all")
    return json.loads(json.dumps([*found]))


def words_for(lens: Path, *words: str) -> list[str]:
    return ["explain", "--use_cpu", "--model_name_or_path", str(saved_model()), "--lens", str(lens), TEXT, *words]


def test_objects_and_files_hold_a_row_for_each_token_and_layer(
    lens: Path, rows: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words_for(lens, "--layers", "all", "--json")) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found == [{"doc_id": 0, **row} for row in rows]
    assert cli.main(words_for(lens, "--layers", "0,resid_post.2", "-o", str(tmp_path / "rows.parquet"))) == 0
    table = pq.read_table(tmp_path / "rows.parquet")
    assert table["site"].to_pylist() == [SITES[0], SITES[2]] * (len(rows) // 3)


def test_people_see_a_line_for_each_token_and_a_column_for_each_layer(rows: list[dict[str, Any]]) -> None:
    table = table_of(rows, TextRun({}))
    assert [column.header for column in table.columns] == ["#", "token", *SITES] and table.row_count == len(rows) // 3
    page = io.StringIO()
    Console(width=200, file=page).print(table)
    lines = page.getvalue().splitlines()
    for row in rows:
        line = next(line for line in lines if line.split()[:1] == [str(row["position"])])
        assert row["explanation"] in line and f"{row['kl']:.3f}" in line
    plain = table_of([{k: v for k, v in row.items() if k != "site"} for row in rows], TextRun({}))
    assert plain.row_count == len(rows)


def test_layers_that_a_lens_does_not_read_are_refused_before_any_weights(
    lens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_lens(FrozenLM.from_pretrained(saved_model())).save_pretrained(tmp_path / "single")
    (lens / "model.safetensors").rename(tmp_path / "elsewhere")
    for folder, layers in ((lens, "9"), (tmp_path / "single", "2")):
        assert cli.main(words_for(folder, "--layers", layers)) == 2
        assert f"layers='{layers}': the lens reads no such site. Name some of" in capsys.readouterr().err
    (tmp_path / "elsewhere").rename(lens / "model.safetensors")
