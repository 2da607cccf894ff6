"""What a text lens adds to the report that every lens gets: controls made of words, traits of words, their verdict."""

from .judge import Judge
from .text_report import TextReport

__all__ = ["Judge", "TextReport"]
