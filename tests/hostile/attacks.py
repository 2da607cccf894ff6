"""All attacks by name."""

from __future__ import annotations

from . import lenses, pages, pickled, records
from .trying import Attack

ATTACKS: dict[str, Attack] = {
    "configuration": lenses.configuration,
    "lens-files": lenses.files,
    "report": records.report,
    "training-record": records.training,
    "extraction": records.extraction,
    "run-records": records.run_records,
    "recipe": records.recipe,
    "pickles": pickled.states,
    "samples-table": pages.samples,
    "requests": pages.request,
}
