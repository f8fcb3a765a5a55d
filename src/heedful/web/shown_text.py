"""What people and models wrote, as safe HTML: Markdown, code and LaTeX. It loads nothing from elsewhere and runs nothing."""

from __future__ import annotations

import re
from collections.abc import MutableMapping, Sequence
from functools import lru_cache
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererProtocol
from markdown_it.rules_block import StateBlock, table
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from markupsafe import Markup, escape

from heedful.conversation import Turn, split_turns
from heedful.web.formulas import FORMULA_CLASSES, FORMULA_ELEMENTS, LONGEST_FORMULA, MOST_ELEMENTS, mathml

MARKDOWN_TAGS = {
    *("a", "blockquote", "br", "code", "dd", "del", "dl", "dt", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol"),
    *("p", "pre", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul"),
}
"""No images (an image's server would learn who reads the text), no forms, no styles."""

LONGEST_RENDERED = 20_000
"""In characters. A longer text is shown as source: rendering it would keep the labeler waiting."""
MOST_BRACKETS = 1_000
"""Each opening bracket may begin a link, and the search for its end may read the rest of the text."""

SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}

_FORMULA = re.compile(
    r"\$\$(?P<display>(?:[^$\\]|\\.)+)\$\$"
    r"|\\\[(?P<bracket>.+?)\\\]"
    r"|\\\((?P<paren>.+?)\\\)"
    # Like Pandoc: no space inside the dollars, no digit after them, so that "$5 and $6" stays money.
    r"|(?<![A-Za-z0-9])\$(?P<inline>(?!\s)(?:[^$\\\n]|\\[^\n])+(?<!\s))\$(?![0-9A-Z])",
    re.DOTALL,
)
_COMMAND = re.compile(r"\\[A-Za-z]+(?:\{[^{}]*\})?")
_MONEY = re.compile(r"[0-9].*\s[A-Za-z]{2}", re.DOTALL)
"""Begins with a digit and continues with words: "$5 or 10$"."""
_CLOSING = {"$$": "$$", "\\[": "\\]", "\\(": "\\)"}
_EMPTY_LINE = re.compile(r"\n[ \t>]*\n")
_SIGN = re.compile(r"[$\\]")
_PLAIN_BAR = re.compile(r"(?<!\\)\|")
_PRICE = re.compile(r"[0-9.,]+\s*\|")
"""A cell with a price, and the next cell: "$5|$x"."""
_BAR = "\ue000"
"""Stands for a bar while a table is read; a text that has this character already keeps all its bars."""


def _formula(state: StateInline, silent: bool) -> bool:
    """An inline rule for markdown-it: LaTeX between its delimiters is one piece, so that a_b_c is not emphasis."""
    found = _formula_at(state.src, state.pos, state.posMax)
    if found is None:
        return False
    if not silent:
        token = state.push("formula", "math", 0)
        display = found.lastgroup in ("display", "bracket")
        token.content, token.meta = found.group(), {"latex": found[found.lastgroup or 0], "display": display}
    state.pos = found.end()
    return True


def _formula_at(text: str, begin: int, end: int) -> re.Match[str] | None:
    """The formula, with its delimiters, that begins at this position, if there is one."""
    if text[begin] not in "$\\":
        return None
    end = min(end, begin + LONGEST_FORMULA)
    closing = _CLOSING.get(text[begin : begin + 2], "$")
    found = None if text.find(closing, begin + 1, end) < 0 else _FORMULA.match(text, begin, end)
    if found is None or (found.lastgroup == "inline" and _MONEY.match(_COMMAND.sub("", found["inline"]))):
        return None
    return found


def _table(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    """markdown-it's rule for tables, except that bars inside formulas, as in P(a|b), do not separate cells."""
    source, num_tokens = state.src, len(state.tokens)
    if _BAR in source:
        return table(state, first, last, silent)
    if "without_bars" not in state.env:
        state.env["without_bars"] = "\n".join(map(_without_bars, source.split("\n")))
    state.src = state.env["without_bars"]  # same length as the source, so that all positions stay valid
    try:
        return table(state, first, last, silent)
    finally:
        state.src = source
        for token in state.tokens[num_tokens:]:
            token.content = token.content.replace(_BAR, "|")


def _without_bars(line: str) -> str:
    """A line with another character for the bars in formulas. An escaped bar stays: it does not separate cells anyway."""
    if "|" not in line:
        return line
    pieces: list[str] = []
    place = 0
    while place < len(line):
        found = _formula_at(line, place, len(line))
        if found is None:
            sign = _SIGN.search(line, place + (2 if line[place] == "\\" else 1))
            end = sign.start() if sign else len(line)
            pieces.append(line[place:end])
        else:
            end = found.end()
            is_price = found.lastgroup == "inline" and _PRICE.match(found["inline"])
            pieces.append(found.group() if is_price else _PLAIN_BAR.sub(_BAR, found.group()))
        place = end
    return "".join(pieces)


def _display_formula(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    """A block rule for markdown-it: in a formula on its own lines, no line is a heading or a list item."""
    begin = state.bMarks[first] + state.tShift[first]
    closing = _CLOSING.get(state.src[begin : begin + 2])
    if closing in (None, "\\)") or state.is_code_block(first):
        return False
    end = state.src.find(closing, begin + 2, begin + LONGEST_FORMULA)
    if end < 0:
        return False
    line = first + state.src.count("\n", begin, end)
    if line >= last or state.src[end + 2 : state.eMarks[line]].strip() or _EMPTY_LINE.search(state.src, begin, end):
        return False
    written = state.getLines(first, line + 1, state.blkIndent, False).strip()
    if not silent:
        token = state.push("formula", "math", 0)
        token.block, token.map = True, [first, line + 1]
        token.content, token.meta = written, {"latex": written[2:-2], "display": True}
        state.line = line + 1
    return True


def _render_formula(
    renderer: RendererProtocol, tokens: Sequence[Token], index: int, options: OptionsDict, env: MutableMapping[str, Any]
) -> str:
    """The formula as MathML. A formula that cannot be read, or is too large, stays source."""
    token = tokens[index]
    full = env.get("elements", 0) > MOST_ELEMENTS
    drawn = None if full else mathml(token.meta["latex"], display=token.meta["display"])
    env["elements"] = env.get("elements", 0) + (drawn or "").count("</")
    if drawn is None or env["elements"] > MOST_ELEMENTS:
        source = f'<code class="math">{escape(token.content)}</code>'
        return f"<p>{source}</p>\n" if token.block else source
    return f'<span class="formula">{drawn}</span>' if token.meta["display"] else drawn


_INSTRUCTIONS = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
_WRITTEN = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"]).disable("image")
_WRITTEN.inline.ruler.before("escape", "formula", _formula)
_WRITTEN.block.ruler.at("table", _table, {"alt": ["paragraph", "reference"]})
_WRITTEN.block.ruler.before("fence", "formula", _display_formula, {"alt": ["paragraph", "reference", "blockquote", "list"]})
_WRITTEN.add_render_rule("formula", _render_formula)
_PLAIN = re.compile(r"</?p>|<br ?/?>|\n")


@lru_cache(maxsize=256)
def markdown(text: str) -> Markup:
    """Instructions in Markdown as safe HTML."""
    return _cleaned(_INSTRUCTIONS.render(text))


@lru_cache(maxsize=512)
def rendered(text: str) -> Markup | None:
    """A text with its Markdown, code and LaTeX rendered; None if it has none, or is too long."""
    if len(text) > LONGEST_RENDERED or text.count("[") > MOST_BRACKETS or not text.strip():
        return None
    html = _WRITTEN.render(text)
    if "<" not in _PLAIN.sub("", html):
        return None
    return _cleaned(html)


def beginning_of_turns(text: str) -> list[Turn]:
    """The turns in the beginning of a prompt's text, which may be cut anywhere."""
    head, turns = split_turns(text)
    if not turns or not (text.startswith("Human: ") or "\n\nHuman: " in text):
        return [Turn("user", text)]
    return [*([Turn("system", head)] if head else []), *(turn for turn in turns if turn.text)]


def speaker(role: str) -> str:
    """Who speaks in a turn."""
    return SPEAKERS.get(role, role)


def _cleaned(html: str) -> Markup:
    """Keep only what is allowed. The renderer lets no HTML of the author through; this is a second barrier."""
    return Markup(
        nh3.clean(
            html,
            tags=MARKDOWN_TAGS | {"span", *FORMULA_ELEMENTS},
            attributes={"a": {"href", "title"}, "ol": {"start"}} | {tag: {*values} for tag, values in FORMULA_ELEMENTS.items()},
            allowed_classes={"code": {"math"}, "span": {"formula"}} | FORMULA_CLASSES,
            url_schemes={"http", "https", "mailto"},
            link_rel="noopener noreferrer nofollow",
        )
    )
