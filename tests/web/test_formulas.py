"""Formulas on the pages: LaTeX as MathML that is written again from a short list of what is allowed."""

from __future__ import annotations

import re
import threading
from html.parser import HTMLParser

import math_core
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.quick import takes_less_than

from heedful.web import formulas
from heedful.web.formulas import DEEPEST, FORMULA_CLASSES, FORMULA_ELEMENTS, LONGEST_FORMULA, MOST_COMMANDS, mathml
from heedful.web.shown_text import MARKDOWN_TAGS, rendered


@pytest.mark.parametrize(
    ("latex", "expected"),
    [
        (r"\frac{a}{b}", "<mfrac><mi>a</mi><mi>b</mi></mfrac>"),
        (r"\sqrt[3]{x}", "<mroot><mi>x</mi><mn>3</mn></mroot>"),
        (r"a_b^2", "<msubsup><mi>a</mi><mi>b</mi><mn>2</mn></msubsup>"),
        (r"x<3 \& y", "<mi>x</mi><mo>&lt;</mo><mn>3</mn><mo>&amp;</mo><mi>y</mi>"),
        (r"\overline{AB}", '<mover class="lined"><mrow><mi>A</mi><mi>B</mi></mrow><mo stretchy="true"></mo></mover>'),
        (r"\boxed{42}", '<menclose notation="box"><mn>42</mn></menclose>'),
        (r"\mbox{ab c}", "<mtext>ab\xa0c</mtext>"),
        (r"\text{<b>x</b>}", "<mtext>&lt;b&gt;x&lt;/b&gt;</mtext>"),
        (r"\textbf{ab}", '<mtext class="bold">ab</mtext>'),
        (r"\$5", "<mi>$</mi><mn>5</mn>"),
        (r"50\%", "<mn>50</mn><mi>%</mi>"),
        (r"\hat{x}", '<mover accent="true"><mi>x</mi><mo stretchy="false">ˆ</mo></mover>'),
        (
            r"\begin{aligned} a &= 1 \end{aligned}",
            '<mtable displaystyle="true" scriptlevel="0"><mtr><mtd class="to-right no-gap-right"><mi>a</mi></mtd>'
            '<mtd class="to-left no-gap-left"><mo>=</mo><mn>1</mn></mtd></mtr></mtable>',
        ),
        (
            r"\begin{array}{c|c}a&b\end{array}",
            '<mtable displaystyle="false" scriptlevel="0"><mtr><mtd class="line-right"><mi>a</mi></mtd>'
            "<mtd><mi>b</mi></mtd></mtr></mtable>",
        ),
        # Colours would hide a text as well as mark it, and pages allow no styles.
        (r"\color{white}{x}", "<mrow><mi>x</mi></mrow>"),
    ],
)
def test_formulas_as_mathml(latex: str, expected: str) -> None:
    assert mathml(latex, display=False) == f"<math>{expected}</math>"
    assert mathml(latex, display=True) == f'<math display="block">{expected}</math>'


@pytest.mark.parametrize(
    "latex",
    [
        *("", " ", "{", "}", r"\frac{a}", "a^b^c", r"\unknown{x}", "x & y", r"\left( x", r"\begin{matrix}", "\\", "\ud800"),
        # What links, styles, loads or names.
        *(r"\href{javascript:alert(1)}{x}", r"\url{https://elsewhere.example}", r"\class{a}{b}", r"\style{color:red}{x}"),
        *(r"\includegraphics{x.png}", r"\cssId{a}{b}", r"\data{x=1}{y}", r"\eqref{a}", r"\unicode{x3c}", r"\htmlClass{a}{b}"),
        # What hides a part, or makes one command mean another.
        *("x % y", "50%", r"\\% x", r"\phantom{x} y", r"\hphantom{x} y", r"\mathchoice{a}{b}{c}{d}"),
        *(r"\def\a{\a\a}\a", r"\newcommand{\x}{y}\x", r"\renewcommand{\frac}{y} x", r"\let\a\b", r"\\\def\a{b} x"),
        # What would cover the text around it.
        *(r"\hspace{1000000em}x", r"\hspace{9em}x", r"\rule{100em}{100em}", r"\genfrac{(}{)}{99em}{}{n}{k}"),
    ],
)
def test_what_cannot_be_read_or_is_not_allowed_stays_source(latex: str) -> None:
    assert mathml(latex, display=False) is None
    assert mathml(latex, display=True) is None


def test_no_negative_space_moves_a_text_over_another() -> None:
    assert mathml(r"\hspace{-3em}x", display=False) == "<math><mspace></mspace><mi>x</mi></math>"


def test_limits_on_length_depth_and_commands() -> None:
    assert mathml("x" * LONGEST_FORMULA, display=False) is not None
    assert mathml("x" * (LONGEST_FORMULA + 1), display=False) is None
    assert mathml(r"\sqrt{" * DEEPEST + "x" + "}" * DEEPEST, display=False) is not None
    assert mathml(r"\sqrt{" * (DEEPEST + 1) + "x" + "}" * (DEEPEST + 1), display=False) is None
    assert mathml(r"\sqrt" * MOST_COMMANDS + "{x}", display=False) is not None
    assert mathml(r"\sqrt" * (MOST_COMMANDS + 1) + "{x}", display=False) is None


@pytest.mark.parametrize("piece", [r"\sqrt", r"\not", r"\hat", r"\left(", r"\begin{matrix}", r"\color{red}", r"\displaystyle"])
def test_the_deepest_formula_fits_the_smallest_stack(piece: str) -> None:
    """math-core calls itself for each level, and a stack that overflows ends the process."""
    braces = "{" * DEEPEST
    before = threading.stack_size(1024 * 1024)
    try:
        thread = threading.Thread(target=mathml, args=(piece * MOST_COMMANDS + braces + "x",), kwargs={"display": False})
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()


@pytest.mark.parametrize(
    "latex",
    [
        "'" * 2_000,
        r"\," * 249,
        "x^{" * 39 + "}" * 39,
        "{}" * 1_000,
        r"\begin{matrix}" + "&" * 1_900 + r"\end{matrix}",
        "x_" * 999,
    ],
)
def test_a_mean_formula_takes_no_time(latex: str) -> None:
    takes_less_than(1, lambda: mathml(latex, display=True))


def test_the_formulas_of_one_text_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heedful.web.shown_text.MOST_ELEMENTS", 10)
    html = str(rendered(r"$\frac{1}{2}$ then $\frac{3}{4}$ then $\frac{5}{6}$"))
    assert html.count("<mfrac>") == 2
    assert r'<code class="math">$\frac{5}{6}$</code>' in html


PIECES = st.sampled_from(
    [
        *(
            "{",
            "}",
            "[",
            "]",
            "^",
            "_",
            "&",
            "\\\\",
            "'",
            "x",
            "7",
            " ",
            "<script>alert(1)</script>",
            "<img src=x onerror=a>",
            '"',
        ),
        *("&lt;", "]]>", "<!--", "-->", "</math>", "</mtext>", "<style>", "\x00", "\u0332", "é", "\\", "%", "~", "|"),
        *(r"\frac", r"\text{", r"\textbf{", r"\texttt{", r"\textsf{", r"\sqrt", r"\left(", r"\right)", r"\href{javascript:a}"),
        *(r"\begin{array}{c|c}", r"\end{array}", r"\begin{align}", r"\end{align}", r"\label{x}", r"\tag{<b>}", r"\color{red}"),
        *(
            r"\overline",
            r"\underline",
            r"\mathbb",
            r"\sum",
            r"\operatorname{",
            r"\quad",
            r"\hspace{-9em}",
            r"\boxed",
            r"\cancel",
        ),
        *(r"\smash", r"\sideset", r"\ref{x}", r"\underbrace", r"\xrightarrow", r"\begin{cases}", r"\end{cases}", r"\hline"),
    ]
)


class Allowed(HTMLParser):
    """Refuses every element and attribute that is not in the lists."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        allowed = FORMULA_ELEMENTS[tag]
        for name, value in attrs:
            if name == "class":
                assert {*str(value).split()} <= FORMULA_CLASSES[tag]
            else:
                assert allowed[name].fullmatch(str(value))


@given(st.lists(PIECES, max_size=30).map("".join), st.booleans())
def test_no_formula_brings_anything_that_is_not_listed(latex: str, display: bool) -> None:
    found = mathml(latex, display=display)
    if found is not None:
        Allowed().feed(found)


@given(st.lists(PIECES, max_size=20).map("".join), st.sampled_from(["${}$", "$${}$$", "\\({}\\)", "\\[{}\\]", "$$\n{}\n$$"]))
def test_no_text_with_formulas_brings_anything_that_is_not_listed(latex: str, signs: str) -> None:
    html = str(rendered(signs.replace("{}", latex) + " **b**"))
    assert {*re.findall(r"<([a-zA-Z]\w*)", html)} <= MARKDOWN_TAGS | {"span", *FORMULA_ELEMENTS}
    assert not re.search(r"<[^>]+ (on\w+|style|src|id)=", html)
    assert 'href="javascript' not in html


@pytest.mark.parametrize(
    "converted",
    [
        "<math><maction><mi>x</mi></maction></math>",
        '<math><mi href="https://elsewhere.example">x</mi></math>',
        '<math><mi onclick="alert(1)">x</mi></math>',
        "<math><semantics><annotation-xml>x</annotation-xml></semantics></math>",
        "<math><mtext><script>alert(1)</script></mtext></math>",
        "<math><mtext><a href='#'>x</a></mtext></math>",
        '<math><mspace width="99em"/></math>',
        "<math><mi>x</mi><!-- x --></math>",
        "<math><mrow><mi>x</mrow></mi></math>",
        "<script>alert(1)</script>",
    ],
)
def test_whatever_the_package_answers_is_looked_at(converted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Package:
        def convert_with_local_state(self, latex: str, displaystyle: bool) -> str:
            return converted

    monkeypatch.setattr(formulas, "_CONVERTER", Package())
    assert mathml("x", display=False) is None


def test_the_package_ends_a_macro_that_expands_to_itself() -> None:
    """What we rely on, besides refusing definitions."""
    with pytest.raises(math_core.LatexError):
        math_core.LatexToMathML(max_expansions=100).convert_with_local_state(r"\def\a{\a\a}\a", displaystyle=False)


# ---------------------------------------------------------------------------------------------------- formulas in texts


@pytest.mark.parametrize(
    "text",
    [
        *(
            "It costs $5 and $6.",
            "from $5 or 10$ each",
            "US$5 or US$6",
            "$20 million and 30$",
            "between $5-$10",
            r"\$5 and \$6",
        ),
        *("export $HOME/bin:$PATH", "I have $ and you have $", "($5) and (10$)", "a $ b $ c"),
    ],
)
def test_money_and_variables_are_no_formulas(text: str) -> None:
    assert rendered(text) is None


@pytest.mark.parametrize(
    ("text", "formulas_in_it"),
    [
        ("the $n$th term, $2x$ and $3 \\text{ apples}$", 3),
        (r"\(x\), $y$ and $\$5 + \$6$", 3),
        ("a\n$$\nx\n$$\nb", 1),
        ("> $$\n> x = 1\n> $$", 1),
        ("- item\n  $$x$$\n  more", 1),
        ("| a | b |\n|-|-|\n| $x^2$ | 2 |", 1),
        ("`$x$` and\n\n    $$x$$\n\n$z$", 1),
        (r"$$x$$ in a line and \[y\]", 2),
    ],
)
def test_formulas_are_found(text: str, formulas_in_it: int) -> None:
    assert str(rendered(text)).count("<math") == formulas_in_it


@pytest.mark.parametrize(
    ("row", "cells", "formulas_in_it"),
    [
        ("| $P(a|b)$ | two |", 2, 1),
        (r"| \(|x|\) | $|y|$ |", 2, 2),
        ("> | $$a|b$$ | two |", 2, 1),
        (r"| $a \| b$ | `$a|b$` |", 2, 1),  # an escaped bar is a bar
        ("| $5 | $6 |", 2, 0),
        ("|$5|$six|", 2, 0),
        (r"| \$a | b$ |", 2, 0),
    ],
)
def test_bars_of_formulas_separate_no_cells(row: str, cells: int, formulas_in_it: int) -> None:
    begin = "> " if row.startswith(">") else ""
    html = str(rendered(f"{begin}| a | b |\n{begin}|-|-|\n{row}"))
    body = html.partition("<tbody>")[2]
    assert (body.count("<td>"), body.count("<math")) == (cells, formulas_in_it)
    assert "<td></td>" not in body
    assert "\ue000" not in html


def test_a_table_outside_formulas_stays_as_it_is() -> None:
    assert "<td>\ue000</td>" in str(rendered("| a | b |\n|-|-|\n| \ue000 | $a$ |"))
    assert rendered("$P(a|b)$ and | $c|d$") == rendered("\\(P(a|b)\\) and | \\(c|d\\)")


def test_lines_of_a_display_formula_are_no_list_and_no_heading() -> None:
    html = str(rendered("So\n\\[\n\\begin{aligned}\na &= b \\\\\n- c &= d\n===\n\\end{aligned}\n\\]\nholds."))
    assert html.startswith('<p>So</p>\n<span class="formula"><math display="block"><mtable')
    assert "<li>" not in html
    assert "<h1>" not in html
    assert html.endswith("</span><p>holds.</p>\n")


def test_a_display_formula_that_cannot_be_read_stays_source() -> None:
    assert str(rendered("$$\n\\unknown\n$$")) == '<p><code class="math">$$\n\\unknown\n$$</code></p>\n'
    # An empty line ends a paragraph: the signs belong to nothing.
    assert rendered("$$\nx\n\ny\n$$") is None
