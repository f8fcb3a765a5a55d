"""The report's table of PPO beside other ways to learn from the same data: win rate, KL, cost."""

from __future__ import annotations

from dataclasses import dataclass

from heedful.evaluate.results import AlternativeRow, ExpectedRow, Results, Timings, WinRate


@dataclass(frozen=True, slots=True)
class AlternativeLine:
    """One line of the table; None where something was not measured."""

    row: AlternativeRow
    wins: WinRate | ExpectedRow | None
    """Against SFT: the expected rate for simulated labelers; for people, that of held-out labelers if there are any."""
    benchmark_change: float | None
    """Mean change over the benchmarks from SFT, as a share."""
    worst: tuple[str, float] | None
    """The benchmark that fell most from SFT, and by how much (below 0 if it fell)."""
    processor_seconds: float | None
    """Of the model's own stage."""


def alternative_lines(results: Results, timings: Timings | None) -> list[AlternativeLine]:
    """Return a line for SFT, PPO, PPO-ptx and each alternative that was evaluated."""
    found = results.get("alternatives")
    if found is None:
        return []
    seconds = {} if timings is None else {row["stage"]: row.get("processor_seconds") for row in timings["stages"]}
    lines: list[AlternativeLine] = []
    for row in found["rows"]:
        changes = _changes(results, row["model"])
        lines.append(
            AlternativeLine(
                row=row,
                wins=_wins(results, row["model"]),
                benchmark_change=sum(changes.values()) / len(changes) if changes else None,
                worst=min(changes.items(), key=lambda item: item[1]) if changes else None,
                processor_seconds=seconds.get(row["model"]),
            )
        )
    return lines


def _wins(results: Results, model: str) -> WinRate | ExpectedRow | None:
    expected = results.get("expected_preference")
    for row in expected["rows"] if expected is not None else ():
        if row["name"] == model:
            return row
    preference = results.get("preference")
    rows = [row for row in preference["win_rates"] if row["model"] == model] if preference is not None else []
    return min(rows, key=lambda row: row["group"] != "held_out", default=None)


def _changes(results: Results, model: str) -> dict[str, float]:
    """Benchmark -> the model's score minus SFT's. Bias benchmarks are left out: an entropy is not a score."""
    changes: dict[str, float] = {}
    for benchmark in results.get("benchmarks", []):
        scores = {row["model"]: row["score"] for row in benchmark["scores"]}
        if benchmark["metric"] != "entropy (bits)" and {model, "sft"} <= set(scores):
            changes[benchmark["name"]] = scores[model] - scores["sft"]
    return changes
