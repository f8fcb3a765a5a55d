"""How much markup a response has: list items, headers, bold text and code blocks, counted as Chatbot Arena does.

Li, Angelopoulos and Chiang 2024, "Does style matter?": people like markup, whatever it says. They leave code blocks out of the
other counts; that code blocks are a feature of their own is ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_CODE_BLOCK = re.compile(r"^ {0,3}```.*?(?:^ {0,3}```[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
"""A block that is not closed goes on to the end, as Markdown has it: the response was cut."""
_HEADER = re.compile(r"^#{1,6}[ \t]", re.MULTILINE)
_LIST_ITEM = re.compile(r"^[ \t]*(?:[-+*]|\d+\.)[ \t]", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")


@dataclass(frozen=True, slots=True)
class TextStyle:
    """What a response has of each."""

    lists: float
    """List items, with bullets or numbers."""
    headers: float
    bold: float
    code_blocks: float


STYLE_FEATURES = ("lists", "headers", "bold", "code_blocks")
"""The fields of TextStyle."""


def text_style(text: str) -> TextStyle:
    """Count the markup of a Markdown text; what is inside code blocks is code."""
    rest, code_blocks = _CODE_BLOCK.subn("", text)
    lists, headers, bold = (len(pattern.findall(rest)) for pattern in (_LIST_ITEM, _HEADER, _BOLD))
    return TextStyle(lists, headers, bold, code_blocks)
