"""A test of the spine is given each family in turn; the toy is in the table while it is tested."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from family_rows import ROWS, SAVING, Row

from consistency_lens.auto import FAMILIES
from consistency_lens.base.trainer import LensTrainer


@pytest.fixture(scope="module", params=ROWS)
def row(request: pytest.FixtureRequest) -> Iterator[Row]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, request.param, ROWS[request.param].family)
        yield ROWS[request.param]


@pytest.fixture(scope="module")
def trained(row: Row, tmp_path_factory: pytest.TempPathFactory) -> LensTrainer:
    """At its end, with all that it was asked to write on the way; shared, so not to be changed."""
    trainer = row.trainer(tmp_path_factory.mktemp("trained") / "run", **SAVING)
    trainer.train()
    return trainer
