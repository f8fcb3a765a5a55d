"""What people and models wrote, as safe HTML: Markdown, code and LaTeX. Nothing is loaded from elsewhere, nothing runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererProtocol
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from markupsafe import Markup, escape

from heedful.conversation import Turn, split_turns

MARKDOWN_TAGS = {
    *("a", "blockquote", "br", "code", "dd", "del", "dl", "dt", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol"),
    *("p", "pre", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul"),
}
"""No pictures (a picture's address would tell its server who reads), no forms, no styles."""

LONGEST_RENDERED = 20_000
"""Characters. A longer text is shown as it was written: rendering it would keep the labeler waiting."""
MOST_BRACKETS = 1_000
"""Each opening bracket may begin a link, which is searched for up to the end of the text."""

SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}

_MATH = re.compile(
    r"\$\$(?P<display>[^$]+)\$\$"
    r"|\\\[(?P<bracket>.+?)\\\]"
    r"|\\\((?P<paren>.+?)\\\)"
    # As Pandoc: no space inside the dollars, no digit after them, so that "$5 and $6" stays money.
    r"|\$(?P<inline>[^\s$](?:[^$\n]*[^\s$])?)\$(?!\d)",
    re.DOTALL,
)
_LONGEST_MATH = 500


def _math(state: StateInline, silent: bool) -> bool:
    """An inline rule of markdown-it: LaTeX between its signs is one piece, so that a_b_c is no emphasis."""
    if state.src[state.pos] not in "$\\":
        return False
    found = _MATH.match(state.src, state.pos, min(state.posMax, state.pos + _LONGEST_MATH))
    if found is None:
        return False
    if not silent:
        state.push("math", "code", 0).content = found.group()
    state.pos = found.end()
    return True


def _render_math(renderer: RendererProtocol, tokens: Sequence[Token], index: int, options: OptionsDict, env: object) -> str:
    return f'<code class="math">{escape(tokens[index].content)}</code>'


_INSTRUCTIONS = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
_WRITTEN = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"]).disable("image")
_WRITTEN.inline.ruler.before("escape", "math", _math)
_WRITTEN.add_render_rule("math", _render_math)
_PLAIN = re.compile(r"</?p>|<br ?/?>|\n")


@lru_cache(maxsize=256)
def markdown(text: str) -> Markup:
    """Instructions in Markdown as safe HTML."""
    return _cleaned(_INSTRUCTIONS.render(text))


@lru_cache(maxsize=512)
def rendered(text: str) -> Markup | None:
    """A text with its Markdown, code and LaTeX rendered; None where there is none, or the text is too long."""
    if len(text) > LONGEST_RENDERED or text.count("[") > MOST_BRACKETS or not text.strip():
        return None
    html = _WRITTEN.render(text)
    if "<" not in _PLAIN.sub("", html):
        return None
    return _cleaned(html)


def beginning_of_turns(text: str) -> list[Turn]:
    """The turns of the beginning of a prompt's text, which may be cut anywhere."""
    head, turns = split_turns(text)
    if not turns or not (text.startswith("Human: ") or "\n\nHuman: " in text):
        return [Turn("user", text)]
    return [*([Turn("system", head)] if head else []), *(turn for turn in turns if turn.text)]


def speaker(role: str) -> str:
    """Who speaks in a turn."""
    return SPEAKERS.get(role, role)


def _cleaned(html: str) -> Markup:
    """Only what is allowed: no HTML of the writer's is let through in the first place, this is the second lock."""
    return Markup(
        nh3.clean(
            html,
            tags=MARKDOWN_TAGS,
            attributes={"a": {"href", "title"}, "ol": {"start"}},
            allowed_classes={"code": {"math"}},
            url_schemes={"http", "https", "mailto"},
            link_rel="noopener noreferrer nofollow",
        )
    )
