"""Scores and verdicts, stored beside the responses, so that nothing is judged, or paid for, twice."""

from __future__ import annotations

import csv
import hashlib
import io
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from heedful.evaluate.benchmarks.benchmark_data import cells_of
from heedful.evaluate.benchmarks.benchmark_run import Rows
from heedful.evaluate.benchmarks.benchmark_scores import Numbers
from heedful.evaluate.benchmarks.item_results import add_rows, stored_rows
from heedful.evaluate.benchmarks.series import Series
from heedful.evaluate.benchmarks.toxicity import toxicity
from heedful.evaluate.benchmarks.truth_judges import (
    QUALITIES,
    Judge,
    Judged,
    Quality,
    Verdict,
    truth_numbers,
    verdicts_of_people,
)
from heedful.progress import progress_line
from heedful.project.files import write_atomically

_JUDGED_BATCH = 16


def toxicity_numbers(series: Series, rows: Rows) -> dict[str, Numbers]:
    """Score the toxicity of each item's response. Raises MissingError."""
    scores = toxicity([rows[item.id]["response"] for item in series.items])
    return {item.id: {"toxicity": score} for item, score in zip(series.items, scores, strict=True)}


def judged_numbers(
    judge: Judge, judge_name: str, series: Series, rows: Rows, path: Path, console: Console
) -> tuple[dict[str, Numbers], list[str]]:
    """Have both qualities of each response judged; also return the reasons of missing verdicts.

    Verdicts are stored in ``path``; missing ones are requested again.
    """
    stored = stored_rows(path)
    waiting = [item for item in series.items if not _is_judged(stored.get(item.id), rows[item.id]["response"], judge_name)]
    with progress_line(f"judging {series.name}", len(waiting), unit="responses", console=console) as progress:
        for first in range(0, len(waiting), _JUDGED_BATCH):
            part = [Judged(item, rows[item.id]["response"]) for item in waiting[first : first + _JUDGED_BATCH]]
            verdicts = {quality: judge(quality, part) for quality in QUALITIES}
            new = [_as_row(one, {q: verdicts[q][place] for q in QUALITIES}, judge_name) for place, one in enumerate(part)]
            add_rows(path, new)
            stored.update({row["id"]: row for row in new})
            progress.advance(len(part))
    kept = [stored[item.id] for item in series.items]
    reasons = [row["reasons"][quality] for row in kept for quality in QUALITIES if row[quality] is None]
    return {row["id"]: truth_numbers(row["true"], row["informative"]) for row in kept}, reasons


def _is_judged(row: Mapping[str, Any] | None, response: str, judge_name: str) -> bool:
    return (
        row is not None
        and row["response"] == response
        and row["judge"] == judge_name
        and all(row[quality] is not None for quality in QUALITIES)
    )


def _as_row(one: Judged, verdicts: Mapping[Quality, Verdict], judge_name: str) -> dict[str, Any]:
    return {
        "id": one.item.id,
        "judge": judge_name,
        "response": one.response,
        **{quality: verdict.value for quality, verdict in verdicts.items()},
        "reasons": {quality: verdict.reason for quality, verdict in verdicts.items() if verdict.value is None},
    }


# ---------------------------------------------------------------------------------------------------- people


def row_id(model: str, series: str, item: str) -> str:
    """Make a response's id for the table for people. It does not reveal the model."""
    return hashlib.sha256(f"{model}\0{series}\0{item}".encode()).hexdigest()[:12]


def write_table_for_people(path: Path, responses: Mapping[tuple[str, str], tuple[Series, Rows]]) -> int:
    """Write a CSV file of all responses to judge, shuffled, without models' names; return the number of rows.

    It includes empty responses. People fill in the columns true and informative with yes or no. Raises StorageError.
    """
    rows = [
        {
            "id": row_id(model, series.name, item.id),
            "question": item.facts["question"],
            "answers that are right": "; ".join(item.facts["right"]),
            "answers that are wrong": "; ".join(item.facts["wrong"]),
            "response": rows[item.id]["response"],
            "true": "",
            "informative": "",
        }
        for (model, _), (series, rows) in responses.items()
        for item in series.items
    ]
    random.Random(0).shuffle(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())
    return len(rows)


def numbers_of_people(
    path: Path, responses: Mapping[tuple[str, str], tuple[Series, Rows]]
) -> dict[tuple[str, str], dict[str, Numbers]]:
    """Read each model's and series' numbers from the table that people filled in. Raises MissingError, DataError."""
    verdicts = verdicts_of_people(cells_of(path))
    nothing: dict[Quality, Verdict] = {quality: Verdict(None, "not in the table") for quality in QUALITIES}
    found: dict[tuple[str, str], dict[str, Numbers]] = {}
    for (model, name), (series, _) in responses.items():
        own: dict[str, Numbers] = {}
        for item in series.items:
            verdict = verdicts.get(row_id(model, name, item.id), nothing)
            own[item.id] = truth_numbers(verdict["true"].value, verdict["informative"].value)
        found[model, name] = own
    return found


def counted(reasons: Sequence[str], limit: int = 3) -> str:
    """List the most common reasons with their numbers, for a note."""
    counts = {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}
    most = sorted(counts.items(), key=lambda entry: -entry[1])[:limit]
    return "; ".join(f"{count:,} x {reason}" for reason, count in most)
