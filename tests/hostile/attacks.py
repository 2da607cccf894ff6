"""All attacks by name. Those on the page need what the page needs."""

from __future__ import annotations

from importlib.util import find_spec

from . import lenses, pickled, records
from .trying import Attack

ATTACKS: dict[str, Attack] = {
    "configuration": lenses.configuration,
    "lens-files": lenses.files,
    "transcoder": lenses.transcoder,
    "report": records.report,
    "training-record": records.training,
    "extraction": records.extraction,
    "run-records": records.run_records,
    "recipe": records.recipe,
    "pickles": pickled.states,
}
if find_spec("gradio"):
    from . import pages

    ATTACKS |= {"samples-table": pages.samples, "requests": pages.request}
