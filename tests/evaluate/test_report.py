"""The report is one safe, self-contained, deterministic file that says what it does not know."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.evaluate.invented import HOSTILE, invented_results, invented_timings, minimal_results

from heedful.errors import DataError
from heedful.evaluate import number_words, plots
from heedful.evaluate.paper_findings import comparisons, findings
from heedful.evaluate.report import headline, ordered_models, render_report, write_report
from heedful.evaluate.results import Estimate, Results, TranscriptResponse
from heedful.evaluate.results_file import check_results


class _Page(HTMLParser):
    """What a browser would see: tags, attributes, ids, and the text outside style sheets."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        self.text = "".join(self.words)
        self.ids = [attributes["id"] for _, attributes in self.tags if "id" in attributes]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "br", "img", "link"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)


@pytest.fixture(scope="module")
def html() -> str:
    return render_report(invented_results(), invented_timings())


@pytest.fixture(scope="module")
def page(html: str) -> _Page:
    return _Page(html)


def test_hostile_text_is_shown_and_never_acts(html: str, page: _Page) -> None:
    assert not {"script", "img", "iframe", "object", "link", "base", "form"} & {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "<script>alert('pwned')</script>" in page.text  # the reader sees what the model wrote
    assert "{{ 7 * 7 }}" in page.text
    assert "\\x1b[31m\\x00 \\u202e" in page.text
    assert not set(html) & {"\x00", "\x1b", "\u202e"}
    assert page.open == []


def test_hostile_names_are_escaped_in_figures_too() -> None:
    results = invented_results()
    for model in results["models"]:
        model["label"] = f"$x^2$ {HOSTILE} -->"
    results["project"] = HOSTILE
    assert "alignment_tax" in results
    assert "benchmarks" in results
    results["alignment_tax"][0]["benchmark"] = results["benchmarks"][0]["name"] = f"{HOSTILE} $\\frac"
    timings = invented_timings()
    timings["machine"] = HOSTILE
    page = _Page(render_report(results, timings))
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert page.open == []


def test_a_lone_surrogate_does_not_stop_the_writing(tmp_path: Path) -> None:
    results = minimal_results()
    response: TranscriptResponse = {"model": "base", "text": "half a character: \ud83d", "reward": None, "overall": None}
    results["transcripts"] = [{"prompt": "Say it.", "use_case": "chat", "responses": [response]}]
    write_report(results, None, tmp_path / "report.html")
    assert "half a character: ?" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_one_file_that_needs_no_network(html: str, page: _Page) -> None:
    links = [attributes[name] for _, attributes in page.tags for name in ("href", "src", "xlink:href") if name in attributes]
    assert links
    assert all(link is not None and link.startswith("#") for link in links)
    assert re.findall(r"url\((?!#)", html) == []
    assert "@import" not in html
    assert "@font-face" not in html
    assert "default-src 'none'" in html


def test_ids_are_unique_and_every_reference_resolves(html: str, page: _Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    wanted = {link[1:] for _, attributes in page.tags for name in ("href", "xlink:href") if (link := attributes.get(name))}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", html))
    wanted |= {one for _, attributes in page.tags for one in (attributes.get("aria-labelledby") or "").split()}
    assert wanted <= set(page.ids)


def test_figures_and_tables_are_described(page: _Page) -> None:
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(drawings) == 22
    assert all(attributes.get("role") == "img" and attributes.get("aria-labelledby") for attributes in drawings)
    tables = [tag for tag, _ in page.tags if tag == "table"]
    assert len(tables) == len([tag for tag, _ in page.tags if tag == "caption"]) > 8
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    assert "PPO-ptx 1.6M 67 % (64 % to 70 %, held-out labelers)" in page.text  # the win-rate figure in words


def test_the_same_results_give_the_same_page(html: str) -> None:
    plots.curve.cache_clear()  # drawn again, not remembered
    assert render_report(copy.deepcopy(invented_results()), invented_timings()) == html


def test_colours_follow_the_page(html: str) -> None:
    used = set(re.findall(r"var\(--([a-z-]+)\)", html))
    for block in ("prefers-color-scheme: dark", "@media print"):
        rules = html[html.index(block) :]
        defined = set(re.findall(r"--([a-z-]+):", rules[: rules.index("} }")]))
        assert used <= defined, block
    assert "#0101" not in html  # no sentinel colour was left
    drawn = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawn)) == set()  # and no colour of matplotlib's own


def _luminance(colour: str) -> float:
    """WCAG 2 relative luminance of "#rrggbb"."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_the_contrast_is_enough_in_light_dark_and_print(html: str) -> None:
    assert _contrast("#000000", "#ffffff") == pytest.approx(21.0)
    for start in (html.index(":root"), html.index("prefers-color-scheme: dark"), html.index("@media print")):
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", html[start : html.index("\n}", start)]))
        for text in ("ink", "muted", "link", "good", "bad", "open", "fig-ink"):
            assert _contrast(colours[text], colours["page"]) >= 4.5, text
        assert _contrast(colours["muted"], colours["raised"]) >= 4.5
        assert _contrast(colours["warn"], colours["warn-page"]) >= 4.5
        for mark in ("fig-muted", "fig-base", "fig-prompted-base", "fig-sft", "fig-ppo", "fig-ppo-ptx", "fig-paper"):
            assert _contrast(colours[mark], colours["page"]) >= 3.0, mark


def test_simulated_labelers_are_marked_at_the_top_and_on_every_judged_figure(html: str, page: _Page) -> None:
    assert html.index("Simulated labelers.") < html.index("<h1>")
    judged = [svg for svg in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL) if "judged by simulated labelers" in svg]
    # Win rates, head to head, win rate against KL, reward model: also when a figure is copied out of the page.
    assert len(judged) == 4
    figures = re.findall(r"<figcaption>.*?</figcaption>", html, flags=re.DOTALL)
    assert len([caption for caption in figures if "simulated labelers</span>" in caption]) == 4


def test_people_are_not_called_simulated() -> None:
    html = render_report(invented_results("people"), None)
    assert "imulated labelers" not in html
    assert 'role="note"' not in html
    assert html.count("judged by people") == 3


def test_what_is_missing_is_said_with_what_to_do() -> None:
    html = render_report(minimal_results(), None)
    page = _Page(html)
    assert page.open == []
    assert page.text.count("Not measured:") == 8
    assert "heedful status" in page.text
    assert "heedful import heedful FILE" in page.text
    assert html.count("<svg") == 2  # the loop, wide and narrow; no empty plot
    assert "cannot say whether alignment helped" in headline(minimal_results())
    assert {finding.verdict for finding in findings(minimal_results())} == {"not measured"}


@pytest.mark.parametrize(
    "section",
    [
        "data",
        "preference",
        "ratings",
        "reward_model",
        "prefix",
        "sft_checkpoints",
        "benchmarks",
        "alignment_tax",
        "curves",
        "transcripts",
    ],
)
def test_any_section_may_be_absent(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "curve", lambda *_, **__: "<svg></svg>")  # the many curves would take most of the time
    results = invented_results()
    del results[section]
    assert _Page(render_report(results, None)).open == []


def test_empty_sections_say_so_too() -> None:
    results = minimal_results()
    results["preference"] = {
        "baseline": "base", "num_prompts": 0, "temperature": 1.0, "win_rates": [], "head_to_head": [], "by_use_case": [],
    }  # fmt: skip
    results["curves"] = {"ppo": [], "ppo_ptx": [{"iteration": 0, "reward": None}]}
    assert "Not measured: win rates." in _Page(render_report(results, None)).text


def test_models_stand_in_the_papers_order() -> None:
    names = ["base", "base_small", "prompted_base", "sft", "ppo", "ppo_ptx", "ppo_ptx_small"]
    assert list(ordered_models(invented_results())) == names


def _with_rate(low: float, high: float) -> Results:
    results = invented_results()
    assert "preference" in results
    for row in results["preference"]["win_rates"]:
        if row["model"] == "ppo_ptx" and row["group"] == "held_out":
            row["low"], row["high"], row["win_rate"] = low, high, (low + high) / 2
    return results


def test_the_headline_says_what_the_interval_says() -> None:
    expected = "Held-out simulated labelers prefer PPO-ptx to SFT in 67\u00a0% of 640 comparisons (95 % interval 64–70\u00a0%)."
    assert headline(invented_results()).startswith(expected)
    assert "see no clear difference" in headline(_with_rate(0.45, 0.55))
    assert "prefer SFT to PPO-ptx" in headline(_with_rate(0.30, 0.40))
    assert headline(invented_results("people")) == expected.replace(" simulated", "")


def test_the_headline_says_what_the_win_rate_is_worth() -> None:
    worth = " Without the luck of their noise PPO-ptx wins 66\u00a0% (64–68\u00a0%);"
    worth += " an always faultless answer would win 81\u00a0%."
    assert headline(invented_results()).endswith(
        f"{worth} That is more than SFT gains by answering at temperature 0 (58\u00a0%)."
    )
    for greedy, said in ((0.67, "wins about as much: 67\u00a0%."), (0.75, "wins more than that: 75\u00a0%.")):
        results = invented_results()
        assert "expected_preference" in results
        for row in results["expected_preference"]["rows"]:
            if row["name"] == "sft_greedy":
                row["win_rate"], row["low"], row["high"] = greedy, greedy - 0.02, greedy + 0.02
        assert headline(results).endswith(f"{worth} SFT alone, answering at temperature 0, {said}")


def test_expected_win_rates_are_shown_beside_the_controls(page: _Page) -> None:
    assert "Without the luck of noise" in page.text
    for label in ("PPO-ptx 1.6M", "SFT at temperature 0", "SFT, best of 8 by the reward model", "An always faultless answer"):
        assert label in page.text
    assert "Without the luck of noise" not in _Page(render_report(invented_results("people"), None)).text


def test_further_rounds_are_shown_with_what_was_decided_and_why() -> None:
    results = minimal_results()
    assert "Further rounds" not in _Page(render_report(results, None)).text
    common: Any = {
        "prompts_arrived": 1_234, "choose": "random", "rankings": 900, "against": "ppo_ptx", "low": 0.51, "high": 0.6,
        "num_prompts": 300, "num_judgements": 600, "benchmarks": [], "confidence": 0.95, "largest_drop": 2.0,
        "current": "policy_2",
    }  # fmt: skip
    second: Any = {**common, "number": 2, "policy": "policy_2", "win_rate": 0.55, "accepted": True, "reasons": ["it is better"]}
    third: Any = {
        **common,
        "low": None,
        "high": None,
        "choose": "disagreement",
        "number": 3,
        "policy": "policy_3",
        "win_rate": None,
        "accepted": False,
        "reasons": ["a <b> fell"],
    }
    results["rounds"] = [second, third]
    page = _Page(render_report(check_results(results), None))
    assert page.open == []
    for words in ("1,234", "55.0", "51.0\u201360.0", "it is better", "a <b> fell", "by disagreement", "policy_2"):
        assert words in page.text, words
    assert (page.text.count("accepted"), page.text.count("rejected")) == (1, 1)


def test_the_findings_can_come_out_either_way() -> None:
    verdicts = [finding.verdict for finding in findings(invented_results())]
    assert verdicts == ["yes"] * 9
    assert findings(_with_rate(0.45, 0.52))[0].verdict == "no"  # below SFT: the order is broken
    assert [findings(_with_rate(*pair))[2].verdict for pair in ((0.45, 0.55), (0.3, 0.4))] == ["unclear", "no"]
    results = invented_results()
    assert "alignment_tax" in results
    assert "reward_model" in results
    results["reward_model"]["by_group"]["held_out"]["value"] = 0.56
    results["reward_model"]["by_group"]["held_out"]["high"] = 0.565
    results["reward_model"]["by_group"]["held_out"]["low"] = 0.55
    results["reward_model"]["agreement_with_reward_model"]["held_out"]["value"] = 0.66  # labelers: 0.718
    results["alignment_tax"][0]["share_undone"] = 0.4
    assert [finding.verdict for finding in findings(results)[5:]] == ["no", "no", "yes", "no"]
    results["reward_model"]["by_group"]["held_out"]["high"] = 0.59  # the length rule's 0.571 is now inside the interval
    assert findings(results)[5].verdict == "unclear"
    for row in results["alignment_tax"]:
        row["drop_ppo"] = -0.01
    assert [finding.verdict for finding in findings(results)[7:]] == ["no", "not measured"]


def test_this_run_stands_beside_the_papers_numbers() -> None:
    lines = {line.what: (line.ours, line.paper) for line in comparisons(invented_results())}
    assert lines["PPO-ptx preferred to SFT"] == ("67.0\u00a0% (63.8–70.2\u00a0%)", "73.4 ± 2 % (4.1)")
    assert lines["PPO-ptx preferred to the base model"][1] == "85 ± 3 % (abstract, 4.1)"
    assert lines["Agreement among held-out labelers"] == ("71.8\u00a0% (70.1–73.5\u00a0%)", "77.3 ± 1.3 % (3.4)")
    assert lines["Reward model, held-out labelers"][1] == "69.6 ± 0.9 % (4.1, E.2)"
    assert lines["Hallucination, base model"] == ("22.9\u00a0%", "41 % (1, 4.1)")  # (6 - 2.1) / 17, by the held-out group
    results = invented_results()
    training: Estimate = {"value": 0.3, "low": 0.2, "high": 0.4, "count": 80}
    held_out: Estimate = {"value": 0.4, "low": 0.3, "high": 0.5, "count": 80}
    results["closed_domain_hallucination"] = [
        {"model": "base", "group": "training", "rate": training},
        {"model": "base", "group": "held_out", "rate": held_out},
    ]
    lines = {line.what: (line.ours, line.paper) for line in comparisons(results)}
    assert lines["Hallucination on closed-domain prompts, base model"] == ("40.0\u00a0% (30.0–50.0\u00a0%)", "41 % (1, 4.1)")
    assert "Hallucination, PPO-ptx" in lines


def test_the_command_to_reproduce_it_is_one_that_works() -> None:
    """A project's seed is in its heedful.toml: `heedful align PROJECT --seed N` is refused."""
    results = minimal_results()
    for project, command in (("miniature", f"heedful align --seed {results['seed']}"), ("mine", "heedful align mine")):
        assert re.search(rf"{command}\s*<", render_report({**results, "project": project}, None))


def test_numbers_are_written_for_people() -> None:
    written = [number_words.duration(seconds) for seconds in (0.44, 48.2, 59.6, 187.0, 7_530.0)]
    assert written == ["0.4\u00a0s", "48\u00a0s", "1\u00a0min 00\u00a0s", "3\u00a0min 07\u00a0s", "2\u00a0h 05\u00a0min"]
    assert [number_words.signed(value) for value in (0.05, -0.014, -0.0001)] == ["+5.0", "−1.4", "0.0"]
    assert [number_words.words(name) for name in ("open_qa", "fails_task", "ppo_ptx")] == ["open QA", "fails task", "PPO-ptx"]
    assert number_words.number(None) == "–"
    assert number_words.number(-1.5, 1) == "−1.5"


def test_results_that_do_not_fit_the_schema_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    results = invented_results()
    results["seed"] = "zero"  # type: ignore[typeddict-item]
    with pytest.raises(DataError, match=r"expected a whole number, got 'zero' @ \$\.seed"):
        write_report(results, None, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
