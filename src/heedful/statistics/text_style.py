"""How much markup a response has: list items, headers, bold text and code blocks, counted as in Chatbot Arena.

Source: Li, Angelopoulos and Chiang 2024, "Does style matter?", who show that people like markup, whatever the text says. Like
them, we do not count markup inside code blocks. Counting the code blocks themselves is our addition.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_CODE_BLOCK = re.compile(r"^ {0,3}```.*?(?:^ {0,3}```[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
"""A block that is not closed (because the response was cut) continues to the end, as in Markdown."""
_HEADER = re.compile(r"^#{1,6}[ \t]", re.MULTILINE)
_LIST_ITEM = re.compile(r"^[ \t]*(?:[-+*]|\d+\.)[ \t]", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")


@dataclass(frozen=True, slots=True)
class TextStyle:
    """How many of each kind of markup a response has."""

    lists: float
    """List items, with bullets or numbers."""
    headers: float
    bold: float
    code_blocks: float


STYLE_FEATURES = ("lists", "headers", "bold", "code_blocks")
"""The fields of TextStyle."""


def text_style(text: str) -> TextStyle:
    """Count the markup of a Markdown text, except inside code blocks."""
    rest, code_blocks = _CODE_BLOCK.subn("", text)
    lists, headers, bold = (len(pattern.findall(rest)) for pattern in (_LIST_ITEM, _HEADER, _BOLD))
    return TextStyle(lists, headers, bold, code_blocks)
