"""Text of others, so that nothing in it is marked up: `safe` in HTML, `unmarked` in Markdown."""

from __future__ import annotations

import re
from html import escape
from typing import Any


def safe(text: Any) -> str:
    """Text in HTML; what would be invisible can be seen."""
    return escape(str(text).replace("\n", "↵").replace("\t", "⇥"))


def unmarked(text: Any) -> str:
    """Text in Markdown, in which nothing is marked up."""
    line = str(text).replace("\n", " ")
    return re.sub(r"[\\`*_{}\[\]()#+\-.!|<>~$&:@/]", lambda found: f"&#{ord(found[0])};", line)
