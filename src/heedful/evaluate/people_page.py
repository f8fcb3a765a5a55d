"""An evaluation by labelers as tables: on the terminal, and on one self-contained page with every answer side by side."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from heedful import __version__
from heedful.evaluate.model_comparison import EFFECTS_TITLE, ModelComparison, Pair, effect_rows, score_rows
from heedful.evaluate.people_comparison import GROUP_WORDS, GroupComparison, Judged, PeopleComparison
from heedful.evaluate.plain_table import plain_table
from heedful.evaluate.results_file import write_text
from heedful.records import RATING_FLAGS
from heedful.statistics import ClusteredEstimate, Estimate

_INTERVALS = ("two-way", "by prompt", "by labeler", "naive")
_MOST_TRANSCRIPTS = 1_000
_SEARCH = """
const box = document.getElementById("search"), left = document.getElementById("left");
const all = [...document.querySelectorAll("details.transcript")].map(one => [one, one.textContent.toLowerCase()]);
box.closest("p").hidden = false;
box.addEventListener("input", () => {
  const words = box.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let shown = 0;
  for (const [one, text] of all) {
    one.hidden = !words.every(word => text.includes(word));
    shown += !one.hidden;
  }
  left.textContent = words.length ? `${shown} of ${all.length} prompts` : "";
});
"""
"""The page's only script: it hides transcripts that lack a word of the search. The page's policy allows no other script."""


@dataclass(frozen=True, slots=True)
class Table:
    """A title, and rows of which the first is the header; the first ``left`` columns are names."""

    title: str
    rows: list[list[str]]
    left: int = 1


def people_tables(one: GroupComparison, confidence: float) -> list[Table]:
    """Make all tables of one group of labelers."""
    sure = f"{100 * confidence:.4g} %"
    baseline = one.against_baseline.baseline
    tables = [
        Table(
            f"win rates against {baseline}, ties as half a win, with {sure} intervals",
            _pair_rows(one.against_baseline.pairs),
            2,
        )
    ]
    if len(one.pairs) > len(one.against_baseline.pairs):
        tables.append(Table(f"win rates of every pair, with {sure} intervals", _pair_rows(one.pairs), 2))
    if one.against_baseline.differences:
        rows = [["model", "minus", "both judged", "difference", "two-way"]]
        for difference in one.against_baseline.differences:
            value = difference.value.two_way
            ends = _ends(value, 100, 1)
            rows.append([difference.model, difference.other, f"{value.count:,}", f"{100 * value.value:+.1f} %", ends])
        tables.append(Table(f"differences of win rates against {baseline}, on the same prompts by the same labelers", rows, 2))
    tables += _score_tables(one.against_baseline)
    if one.rated:
        rows = [["model", "ratings", "mean", *_INTERVALS]]
        for rated in one.rated:
            rows.append([rated.model, f"{rated.num_ratings:,}", f"{rated.overall.value:.2f}", *_four(rated.overall, 1, 2)])
        tables.append(Table(f"overall quality from 1 to 7, with {sure} intervals", rows))
    return [*tables, *_flag_tables(one), *_use_case_tables(one, baseline), *_written_for_tables(one), *_size_tables(one)]


def _score_tables(found: ModelComparison) -> list[Table]:
    tables: list[Table] = []
    if found.scores is not None:
        rows = score_rows(found.scores, None)
        tables.append(Table("Bradley-Terry scores, log-odds against the average model, a tie as half a win", rows))
    if found.at_equal_length is not None:
        rows = score_rows(found.at_equal_length, None, found.scores)
        tables.append(Table("the same at equal length of the responses", rows))
    if found.at_equal_style is not None:
        rows = score_rows(found.at_equal_style, None, found.scores)
        tables.append(Table("the same at equal length and style of the responses", rows))
        tables.append(Table(EFFECTS_TITLE, effect_rows(found.at_equal_style)))
    return tables


def _pair_rows(pairs: Sequence[Pair]) -> list[list[str]]:
    rows = [["model", "against", "votes", "ties", "win rate", *_INTERVALS]]
    for pair in pairs:
        rate = pair.win_rate
        counts = [f"{pair.num_votes:,}", f"{pair.num_ties:,}"]
        rows.append([pair.model, pair.other, *counts, f"{100 * rate.value:.1f} %", *_four(rate, 100, 1)])
    return rows


def _flag_tables(one: GroupComparison) -> list[Table]:
    """Make Table 3 with a column for each model."""
    rows = [["question", *(rated.model for rated in one.rated)]]
    for flag in RATING_FLAGS:
        if any(flag in rated.flags for rated in one.rated):
            rows.append([flag.replace("_", " "), *(_share(rated.flags.get(flag)) for rated in one.rated)])
    return [Table("Table 3: share of yes, with two-way intervals", rows)] if len(rows) > 1 else []


def _use_case_tables(one: GroupComparison, baseline: str | None) -> list[Table]:
    models = [model for model in one.against_baseline.models if model != baseline]
    cells = {(rate.use_case, rate.model): rate.win_rate for rate in one.use_cases}
    cases = list(dict.fromkeys(rate.use_case for rate in one.use_cases))
    rows = [[case.replace("_", " "), *(_share(cells.get((case, model))) for model in models)] for case in cases]
    title = f"win rates against {baseline} by use case, with two-way intervals (n/a: a single prompt or labeler)"
    return [Table(title, [["use case", *models], *rows])] if rows else []


def _written_for_tables(one: GroupComparison) -> list[Table]:
    """Make the table of figure 3: prompts written for an instruct model, and for a base model."""
    baseline = one.against_baseline.baseline
    models = [model for model in one.against_baseline.models if model != baseline]
    cells = {(rate.written_for, rate.model): rate.win_rate for rate in one.written_for}
    parts = list(dict.fromkeys(rate.written_for for rate in one.written_for))
    rows = [[part, *(_share(cells.get((part, model))) for model in models)] for part in parts]
    title = f"win rates against {baseline} by the kind of model that the prompt was written for, with two-way intervals"
    return [Table(title, [["written for", *models], *rows])] if rows else []


def _size_tables(one: GroupComparison) -> list[Table]:
    """Make the tables of figure 30: results by size, for models named KIND@SIZE, such as ppo@1.3B."""
    sized = {model: kind_and_size(model) for model in one.against_baseline.models}
    sizes = sorted({size for _, size in sized.values() if size}, key=size_in_parameters)
    if len(sizes) < 2:
        return []
    names = {found: model for model, found in sized.items()}
    kinds = list(dict.fromkeys(kind for kind, size in sized.values() if size))
    wins = {pair.model: pair.win_rate for pair in one.against_baseline.pairs}
    rated = {found.model: found for found in one.rated}
    measures: dict[str, Mapping[str, ClusteredEstimate]] = {f"win rate against {one.against_baseline.baseline}": wins}
    for flag in RATING_FLAGS:
        if any(flag in found.flags for found in rated.values()):
            measures[flag.replace("_", " ")] = {name: r.flags[flag] for name, r in rated.items() if flag in r.flags}
    rows = [
        [measure, kind, *(_share(values.get(names.get((kind, size), ""))) for size in sizes)]
        for measure, values in measures.items()
        for kind in kinds
    ]
    return [Table("by size, with two-way intervals", [["", "model", *sizes], *rows], 2)]


def kind_and_size(model: str) -> tuple[str, str]:
    """Split ppo@1.3B into (ppo, 1.3B). A name without a size gives an empty size."""
    kind, _, size = model.rpartition("@")
    return (kind, size) if kind and size_in_parameters(size) else (model, "")


def size_in_parameters(size: str) -> float:
    """Return the number of parameters: 1.3e9 for 1.3B, 0 for any text that is not a size."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kMB])", size)
    return 0.0 if found is None else float(found[1]) * {"k": 1e3, "M": 1e6, "B": 1e9}[found[2]]


def _share(estimate: ClusteredEstimate | None) -> str:
    if estimate is None:
        return "-"
    return f"{100 * estimate.value:.1f} % ({_ends(estimate.two_way, 100, 1)})"


def _four(estimate: ClusteredEstimate, scale: float, digits: int) -> list[str]:
    found = (estimate.two_way, estimate.by_prompt, estimate.by_labeler, estimate.naive)
    return [_ends(one, scale, digits) for one in found]


def _ends(estimate: Estimate, scale: float, digits: int) -> str:
    if math.isnan(estimate.low):
        return "n/a"
    return f"{scale * estimate.low:.{digits}f} to {scale * estimate.high:.{digits}f}"


def people_in_words(found: PeopleComparison) -> str:
    """Render all tables for the terminal, and the notes."""
    lines: list[str] = []
    for one in found.groups:
        lines += [f"{GROUP_WORDS[one.group]}: {one.votes.summary()}"]
        for table in people_tables(one, found.confidence):
            lines += [f"{table.title}:", *plain_table(table.rows, left=table.left)]
        lines += [f"note: {note}" for note in one.against_baseline.notes]
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes)])


def write_people_page(
    found: PeopleComparison, judged: Judged, path: Path, *, project: str, simulated: bool, unfinished: str | None
) -> None:
    """Write the page. It loads nothing, runs only its own search, and escapes all texts. Raises StorageError."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("heedful.evaluate").joinpath("people.html.jinja").read_text(encoding="utf-8"))
    sections = [
        {
            "title": GROUP_WORDS[one.group],
            "summary": one.votes.summary(),
            "figure": _figure(one),
            "tables": people_tables(one, found.confidence),
            "notes": one.against_baseline.notes,
        }
        for one in found.groups
    ]
    transcripts = answers_by_prompt(judged)
    page = template.render(
        version=__version__,
        project=project,
        simulated=simulated,
        unfinished=unfinished,
        baseline=found.baseline,
        sure=f"{100 * found.confidence:.4g} %",
        sections=sections,
        notes=found.notes,
        transcripts=transcripts[:_MOST_TRANSCRIPTS],
        num_prompts=len(transcripts),
        script=Markup(_SEARCH),
        script_digest=base64.b64encode(hashlib.sha256(_SEARCH.encode()).digest()).decode(),
    )
    write_text(path, page)


def _figure(one: GroupComparison) -> list[dict[str, Any]]:
    """Make the rows of the win rate plot: places of each mark and its interval, in percent of the width."""
    rows: list[dict[str, Any]] = []
    for pair in one.against_baseline.pairs:
        interval = pair.win_rate.two_way
        known = not math.isnan(interval.low)
        rows.append(
            {
                "model": pair.model,
                "value": round(100 * interval.value, 2),
                "low": round(100 * interval.low, 2) if known else None,
                "high": round(100 * interval.high, 2) if known else None,
            }
        )
    return rows


def answers_by_prompt(judged: Judged) -> list[dict[str, Any]]:
    """Return every prompt with its answers: prompts in the order they were answered, models in the same order everywhere."""
    scores: dict[str, list[int]] = {}
    for rating in judged.ratings:
        scores.setdefault(rating.response_id, []).append(rating.overall)
    answers: dict[str, list[dict[str, Any]]] = {}
    for response in sorted(judged.responses.values(), key=lambda response: str(response.model)):
        said = scores.get(response.id)
        mean = None if said is None else sum(said) / len(said)
        answers.setdefault(response.prompt_id, []).append(
            {"model": str(response.model), "text": response.text, "overall": mean}
        )
    return [_transcript(judged, prompt_id, rows) for prompt_id, rows in answers.items()]


def _transcript(judged: Judged, prompt_id: str, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    prompt = judged.prompts[prompt_id]
    return {"prompt": prompt.text, "use_case": (prompt.use_case or "").replace("_", " "), "answers": answers}
