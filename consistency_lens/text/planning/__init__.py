"""What of a training can be known before it begins: sizes, memory, operations, hours, refusals.

Nothing is loaded and nothing is run. Every number is a sum of terms that have names, so that a measurement can be held
against each of them.
"""

from .choose import Option, choose
from .hours import Hours, hours_of, operations_of
from .memory import Memory, memory_of
from .work import Card, Sizes, Work

__all__ = ["Card", "Hours", "Memory", "Option", "Sizes", "Work", "choose", "hours_of", "memory_of", "operations_of"]
