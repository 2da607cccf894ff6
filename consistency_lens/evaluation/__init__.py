"""Is a lens any good? What any family needs to find out: the comparison with every control, intervals, a report."""

from .bootstrap import Number
from .family import Control, FamilyReport, Seen
from .held_out import HeldOut
from .metric import Fidelity
from .report import Report
from .run import evaluate
from .vectors import VectorReport

__all__ = ["Control", "FamilyReport", "Fidelity", "HeldOut", "Number", "Report", "Seen", "VectorReport", "evaluate"]
