"""One self-contained page for a comparison of models: win rates, Table 14, failure modes, and all answers with a search.

It needs no network. What users and models wrote is escaped; the only script is the page's own search, which the content
security policy names by its digest.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from heedful import __version__
from heedful.evaluate.failure_modes import FailureRate
from heedful.evaluate.model_comparison import Pair
from heedful.evaluate.number_words import visible
from heedful.evaluate.people_comparison import GROUP_WORDS, Judged, PeopleComparison
from heedful.evaluate.people_page import answers_by_prompt, people_tables
from heedful.evaluate.results_file import write_text
from heedful.evaluate.table_14 import Table14Row, other_models, paper_models

MOST_TRANSCRIPTS = 2_000
"""A page with more answers would be slow to open; the page says how many are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonPage:
    """What the page shows. Where a part is None or empty, the page says that it is missing."""

    project: str
    title: str
    simulated: bool
    people: PeopleComparison | None
    judged: Judged | None
    table: Sequence[Table14Row]
    benchmark_models: Sequence[str]
    benchmark_notes: Sequence[str]
    failures: Sequence[FailureRate]


def write_comparison_page(page: ComparisonPage, path: Path) -> None:
    """Write the page to ``path``. Raises StorageError."""
    write_text(path, render_comparison(page))


def render_comparison(page: ComparisonPage) -> str:
    """Render the page as text. The same numbers and answers give the same text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["visible"] = visible
    folder = files("heedful.evaluate")
    script = folder.joinpath("comparison_search.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    transcripts = [] if page.judged is None else answers_by_prompt(page.judged)
    template = environment.from_string(folder.joinpath("comparison.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        version=__version__,
        page=page,
        sections=[] if page.people is None else _sections(page.people),
        people_notes=[] if page.people is None else page.people.notes,
        baseline="" if page.people is None else page.people.baseline,
        papers=paper_models(page.table),
        others=other_models(page.table),
        plots=_benchmark_plots(page),
        cell=_cell,
        failure_models=list(dict.fromkeys(one.model for one in page.failures)),
        failure_rows=_failure_rows(page.failures),
        transcripts=transcripts[:MOST_TRANSCRIPTS],
        num_transcripts=len(transcripts),
        script=Markup(script),  # our own text, not a user's
        script_digest=digest,
    )


def _sections(people: PeopleComparison) -> list[dict[str, Any]]:
    return [
        {
            "title": GROUP_WORDS[one.group],
            "summary": one.votes.summary(),
            "plot": [_plot_row(pair) for pair in one.against_baseline.pairs],
            "tables": people_tables(one, people.confidence),
            "notes": one.against_baseline.notes,
        }
        for one in people.groups
    ]


def _plot_row(pair: Pair) -> dict[str, Any]:
    interval = pair.win_rate.two_way
    return _mark(pair.model, interval.value, interval.low, interval.high)


def _mark(label: str, value: float, low: float | None, high: float | None) -> dict[str, Any]:
    """Make a row of a plot: places of the mark and its interval, in percent of the width."""
    known = low is not None and high is not None and not (math.isnan(low) or math.isnan(high))
    return {
        "label": label,
        "value": round(100 * value, 2),
        "low": round(100 * max(0.0, low), 2) if known and low is not None else None,
        "high": round(100 * min(1.0, high), 2) if known and high is not None else None,
    }


def _benchmark_plots(page: ComparisonPage) -> list[dict[str, Any]]:
    """Make one plot for each measure between 0 and 1."""
    plots: list[dict[str, Any]] = []
    for row in page.table:
        marks = [
            _mark(model, score["value"], score["low"], score["high"])
            for model, score in row.ours.items()
            if score is not None and 0 <= score["value"] <= 1
        ]
        if marks and all(score is None or 0 <= score["value"] <= 1 for score in row.ours.values()):
            plots.append({"title": f"{row.task}, {row.setting}: {row.metric}", "rows": marks})
    return plots


def _cell(score: Mapping[str, float] | None) -> str:
    if score is None:
        return "not scored"
    if score["low"] is None or score["high"] is None:
        return f"{score['value']:.3f}"
    return f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"


def _failure_rows(failures: Sequence[FailureRate]) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, str]] = {}
    for one in failures:
        rate = one.rate
        said = f"{100 * rate.value:.1f} % ({100 * rate.low:.1f} to {100 * rate.high:.1f}) of {rate.count:,}"
        rows.setdefault(one.mode, {})[one.model] = said
    return [{"mode": mode, "rates": rates} for mode, rates in rows.items()]
