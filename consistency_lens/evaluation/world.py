"""`World`: what is known where the truth about texts is known, and what that adds to a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base.modeling import LensModel
from .report import Report


class World:
    """A world knows what its texts state, and how that shows in codes of one family. This one knows nothing."""

    def options(self, lens: LensModel, data: Any, split: str) -> dict[str, Any]:
        """What the family's report is given besides.

        Args:
            lens: with its models.
            data: that the lens is evaluated on.
            split: of the data.
        """
        return {}

    def completed(
        self, report: Report, lens: LensModel, data: Any, of_family: Mapping[str, Any], progress: bool
    ) -> Report:
        """The report with what the world alone can measure.

        Args:
            report: of the lens.
            lens: with its models.
            data: that the lens was evaluated on.
            of_family: all that the family's report was given.
            progress: show a bar.
        """
        return report
