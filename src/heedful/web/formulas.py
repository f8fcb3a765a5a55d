"""LaTeX formulas as MathML, which browsers draw without scripts or fonts from the application.

The package math-core reads the LaTeX. Its output is never passed on: it is parsed, and the formula is written again from the
elements, attributes and values that are listed here. A formula with anything else in it is not rendered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html.parser import HTMLParser

from markupsafe import escape
from math_core import LatexError, LatexToMathML

LONGEST_FORMULA = 2_000
"""In characters. A longer formula stays source."""
DEEPEST = 40
"""Braces inside braces. math-core recurses for each level; without a limit, deep nesting would crash the server."""
MOST_COMMANDS = 250
"""Commands without braces nest too: \\sqrt\\sqrt\\sqrt x. The smallest stack of a thread, one megabyte, holds 380 levels."""
MOST_ELEMENTS = 4_000
"""Elements of all formulas in one text. The rest stays source: drawing it would keep the reader waiting."""

_WHOLE = re.compile(r"[0-9]")
_YES_NO = re.compile(r"true|false")
_SMALL = re.compile(r"(?:[0-4](?:\.[0-9]{1,10})?em|0)")
"""Lengths this small cannot move or cover what is around a formula."""

FORMULA_ELEMENTS: Mapping[str, Mapping[str, re.Pattern[str]]] = {
    "math": {"display": re.compile("block")},
    "menclose": {"notation": re.compile("box|(?:(?:up|down)diagonalstrike ?){1,2}")},
    "mfrac": {"displaystyle": _YES_NO, "scriptlevel": _WHOLE, "linethickness": _SMALL},
    "mi": {"mathvariant": re.compile("normal")},
    "mmultiscripts": {},
    "mn": {},
    "mo": {
        "form": re.compile("infix|prefix|postfix"),
        **dict.fromkeys(("lspace", "rspace", "minsize", "maxsize"), _SMALL),
        **dict.fromkeys(("stretchy", "symmetric", "movablelimits"), _YES_NO),
    },
    "mover": {"accent": _YES_NO},
    "mpadded": {},
    "mprescripts": {},
    "mroot": {},
    "mrow": {"displaystyle": _YES_NO, "scriptlevel": _WHOLE},
    "mspace": {"width": _SMALL},
    "msqrt": {},
    "msub": {},
    "msubsup": {},
    "msup": {},
    "mtable": {"displaystyle": _YES_NO, "scriptlevel": _WHOLE},
    "mtd": {},
    "mtext": {},
    "mtr": {},
    "munder": {"accentunder": _YES_NO},
    "munderover": {},
}
"""The elements of formulas, with the values of each attribute. No element here links, loads, hides or runs anything."""

_EMPTY = {"mprescripts", "mspace"}
_LEFT_OUT = {"class", "id", "style"}
"""Attributes that are removed; classes replace styles, because pages allow no style attributes."""
_TEXT_STYLES = {"b": "bold", "i": "italic", "em": "italic", "code": "typewriter", "u": "", "s": "", "span": ""}
"""HTML inside text in a formula, and the class with the same meaning."""
_CELL_CLASSES: Mapping[str, str] = {
    "text-align:right": "to-right",
    "text-align:left": "to-left",
    "padding-left:0": "no-gap-left",
    "padding-right:0": "no-gap-right",
    "border-left:0.05em solid currentcolor": "line-left",
    "border-right:0.05em solid currentcolor": "line-right",
    "border-top:0.05em solid currentcolor": "line-above",
    "border-bottom:0.05em solid currentcolor": "line-below",
}
FORMULA_CLASSES = {
    "mtd": {*_CELL_CLASSES.values()},
    "mtext": {"bold", "italic", "typewriter"},
    "mover": {"lined"},
    "munder": {"lined"},
}

_LINE = "\u0332"
"""What math-core uses to draw a line above or below. Few fonts have it in every width, so the page draws a border."""

_ESCAPED = re.compile(r"\\.", re.DOTALL)
_REFUSED = re.compile(
    r"(?<!\\)(?:\\\\)*(?:%|\\(?:def|gdef|edef|xdef|let|mathchoice|\w*phantom|(?:new|renew|provide)command)\b)"
)
"""What hides part of a formula's text: comments, definitions, phantoms. Such a formula stays source."""
_CONVERTER = LatexToMathML(
    fancy_error=False, max_expansions=100, macros={"mbox": r"\text{#1}", "hbox": r"\text{#1}"}, unicode_substitution="never"
)


def mathml(latex: str, *, display: bool) -> str | None:
    """A formula as MathML, or None if it cannot be read, is too large, or holds what is not allowed."""
    if len(latex) > LONGEST_FORMULA or latex.count("\\") > MOST_COMMANDS or _depth(latex) > DEEPEST or _REFUSED.search(latex):
        return None
    try:
        converted = _CONVERTER.convert_with_local_state(latex, displaystyle=display)
    except (LatexError, UnicodeError):
        return None
    if converted.count("<") > 2 * MOST_ELEMENTS:
        return None
    writing = _Writing()
    writing.feed(converted)
    writing.close()
    return "".join(writing.pieces) if writing.allowed and len(writing.pieces) > 2 else None


def _depth(latex: str) -> int:
    """How deeply braces and brackets nest."""
    deepest = depth = 0
    for character in _ESCAPED.sub("", latex):
        if character in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "}]":
            depth -= 1
    return deepest


class _Writing(HTMLParser):
    """Writes a formula again from what is allowed. ``allowed`` becomes false at the first thing that is not."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self.allowed = True
        self._open: list[tuple[str, int]] = []
        """The elements that have begun and not ended, each with its place in the pieces."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element begins, or one without content is complete."""
        if self._open and self._open[-1][0] == "mtext":
            self._style_text(tag)
            return
        values = FORMULA_ELEMENTS.get(tag)
        if values is None:
            self.allowed = False
            return
        written = [f"<{tag}"]
        for name, value in attrs:
            if name in values and value is not None and values[name].fullmatch(value):
                written.append(f' {name}="{escape(value)}"')
            elif name not in _LEFT_OUT and (tag, name) != ("mpadded", "voffset"):
                self.allowed = False
        if tag == "mtd":
            styles = [style.strip().replace(": ", ":") for style in (dict(attrs).get("style") or "").split(";")]
            classes = [_CELL_CLASSES[style] for style in styles if style in _CELL_CLASSES]
            written.append(f' class="{" ".join(classes)}"' if classes else "")
        if tag not in _EMPTY:
            self._open.append((tag, len(self.pieces)))
        self.pieces.append("".join(written) + ">" + (f"</{tag}>" if tag in _EMPTY else ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element without content."""
        self.handle_starttag(tag, attrs)
        if tag not in _EMPTY:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        """An element ends."""
        if tag in _EMPTY or (tag in _TEXT_STYLES and self._open and self._open[-1][0] == "mtext"):
            return
        self.allowed = self.allowed and bool(self._open) and self._open.pop()[0] == tag
        self.pieces.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        """Characters, which may be anything."""
        tag, place = self._open[-2] if len(self._open) > 1 else ("", 0)
        if data == _LINE and self._open[-1][0] == "mo" and tag in ("mover", "munder"):
            self.pieces[place] = f'<{tag} class="lined">'
        else:
            self.pieces.append(str(escape(data)))

    def handle_comment(self, data: str) -> None:
        """A formula has no comments."""
        self.allowed = False

    def _style_text(self, tag: str) -> None:
        if tag not in _TEXT_STYLES:
            self.allowed = False
        elif _TEXT_STYLES[tag]:
            self.pieces[self._open[-1][1]] = f'<mtext class="{_TEXT_STYLES[tag]}">'
