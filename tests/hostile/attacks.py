"""All attacks by name. Those on the page need what the page needs."""

from __future__ import annotations

from importlib.util import find_spec

from . import corpora, formats_of_families, kills, lenses, pickled, records
from .trying import Attack

ATTACKS: dict[str, Attack] = {
    "configuration": lenses.configuration,
    "lens-files": lenses.files,
    "transcoder": lenses.transcoder,
    "circuit-tracer": formats_of_families.circuit_tracer,
    "wire": formats_of_families.wire,
    "wire-lens": formats_of_families.wire_lens_files,
    "report": records.report,
    "training-record": records.training,
    "extraction": records.extraction,
    "run-records": records.run_records,
    "recipe": records.recipe,
    "pickles": pickled.states,
    "corpus": corpora.corpus,
}
# Those of which a case takes many seconds: tried where there are minutes for it.
SLOW: dict[str, Attack] = {"kills": kills.whole_run}
if find_spec("gradio"):
    from . import pages

    ATTACKS |= {"samples-table": pages.samples, "requests": pages.request}
