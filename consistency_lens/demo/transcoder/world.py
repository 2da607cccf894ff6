"""`FeatureWorld`: what the offline world adds to the report of a transcoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from consistency_lens.base.modeling import LensModel
from consistency_lens.demo.transcoder.truth import CASES, TOLD, measure_truth, with_truth
from consistency_lens.evaluation import Report
from consistency_lens.evaluation.world import World
from consistency_lens.sparse.modeling import CrosslayerTranscoder


class FeatureWorld(World):
    """Features are compared with the facts of new stories."""

    def completed(
        self, report: Report, lens: LensModel, data: Any, of_family: Mapping[str, Any], progress: bool
    ) -> Report:
        assert lens.subject is not None
        transcoder = cast(CrosslayerTranscoder, lens)
        documents = report.data["documents"]  # a short report has a short look at new stories, too
        told, cases = min(TOLD, max(40, 2 * documents)), min(CASES, max(4, documents // 4))
        return with_truth(report, measure_truth(transcoder, lens.subject, of_family.get("beside"), told, cases))
