"""Texts of people and models on the pages: Markdown, code and LaTeX rendered safely, conversations turn by turn."""

from __future__ import annotations

import re

import pytest
from tests.quick import takes_less_than
from tests.web.site import Site
from tests.web.work import HOSTILE, add_tasks, claim

from heedful.conversation import plain_text
from heedful.labeling.queue import items
from heedful.records import Prompt, Turn
from heedful.web.shown_text import beginning_of_turns, rendered

CHAT = (
    Turn("system", "Be brief."),
    Turn("user", "Fix this:\n\n    def f():\n        return 1"),
    Turn("assistant", "**Done.**"),
    Turn("user", "שלום"),
)


def test_plain_text_stays_as_it_was_written() -> None:
    assert rendered("One line.\nAnother line.\n\nA paragraph & more <b>") is None
    assert rendered("It costs $5 and $6.") is None


def test_markdown_code_and_latex_are_rendered() -> None:
    html = str(rendered("# Title\n\n1. one\n2. two\n\n```python\nif x:\n    y = a_b_c\n```\n"))
    assert "<h1>Title</h1>" in html
    assert "<li>two</li>" in html
    assert "if x:\n    y = a_b_c\n" in html
    assert "<p>so <math><msub><mi>a</mi><mi>b</mi></msub><mo>+</mo>" in str(rendered(r"so $a_b + c_d$ holds"))
    assert '<math display="block"><msup><mi>x</mi><mn>2</mn></msup>' in str(rendered("\\[x^2\nx_1\\]"))
    assert "<br>" in str(rendered("*one*\ntwo"))


@pytest.mark.parametrize(
    "text",
    [
        f"**bold** {HOSTILE}",
        "# <script>alert(1)</script>\n\n[x](javascript:alert(1)) ![](https://elsewhere.example/x.png)",
        "$<img src=x onerror=alert(1)>$ **b**",
        "```<script>\nalert(1)\n```",
        '$a" onmouseover="alert(1)$',
    ],
)
def test_rendered_text_is_harmless(text: str) -> None:
    html = str(rendered(text))
    assert not re.search(r"<(script|img|iframe|svg|style)", html)
    assert not re.search(r"<[^>]+ (on\w+|style|src)=", html)
    assert 'href="javascript' not in html


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "[",
            "[abcdefghijklmnopqrstuvwxyz",
            "*a ",
            "_",
            "`",
            "$",
            "\\(",
            "> ",
            "- ",
            "![",
            "<",
            "|a\n|-\n",
            "|$a|b$\n|-|-\n",
            "|\\[",
            "$a ",
            "$$",
            "\\[",
        ),
        *("\\[\n", "$$\nx\n", "$x'$", "$'$", "\\(\\,\\)", "$" + "{" * 30 + "}" * 30 + "$", "$" + "\\sqrt" * 200 + "{x}$"),
        *("$" + "\\," * 248 + "$", "$" + "'" * 1_900 + "$", "$" + "{" * 1_900 + "$", "$x" + "^{x" * 39 + "}" * 39 + "$"),
    ],
)
def test_rendering_never_keeps_a_labeler_waiting(piece: str) -> None:
    text = (piece * 20_000)[:20_000]
    takes_less_than(3, lambda: rendered(text))


def test_a_conversation_is_shown_turn_by_turn(site: Site) -> None:
    labeler = site.browser(site.person())
    add_tasks(site.database, "rank", prompt=plain_text(CHAT))
    page = labeler.get(f"/tasks/{claim(labeler, 'rank')}").text
    turns = re.findall(r'<li class="turn turn-(\w+)"><span class="speaker">(\w+)</span>(.*?)</li>', page, re.DOTALL)
    assert [(role, name) for role, name, _ in turns] == [
        ("system", "System"), ("user", "User"), ("assistant", "Assistant"), ("user", "User"),
    ]  # fmt: skip
    assert all('dir="auto"' in said for _, _, said in turns)
    assert "    def f():\n        return 1" in turns[1][2]
    assert "<strong>Done.</strong>" in turns[2][2]
    assert "**Done.**" in turns[2][2]
    assert "Human:" not in page
    assert "Assistant:" not in page


def test_researchers_see_turns_too(site: Site) -> None:
    researcher = site.browser(site.person("researcher"))
    with site.database.write() as connection:
        items.add_prompts(connection, [Prompt(id="chat", turns=CHAT)])
    page = researcher.get("/console/prompts/chat").text
    assert page.count('<li class="turn turn-') == 4
    assert '<span class="speaker">Assistant</span>' in researcher.get("/console/data").text


def test_the_beginning_of_a_conversation_that_is_cut() -> None:
    cut = plain_text(CHAT)[:70]
    assert [turn.role for turn in beginning_of_turns(cut)][:2] == ["system", "user"]
    assert beginning_of_turns("A lone prompt.") == [Turn("user", "A lone prompt.")]
