"""Is a lens any good? One call gives every number we publish, each with an interval and beside its controls."""

from .judge import Judge
from .metric import Fidelity
from .report import Report
from .run import evaluate_lens
from .samples import Number

__all__ = ["Fidelity", "Judge", "Number", "Report", "evaluate_lens"]
