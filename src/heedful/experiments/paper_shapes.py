"""Do the paper's patterns ("shapes") appear? Each claim of the paper beside our numbers; intervals decide the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Literal, TypedDict

from heedful.evaluate import lineup
from heedful.experiments.figure_one import FigureOne, SizeRow, row_of, sizes_of
from heedful.experiments.findings import Findings, Measure, Point, text_of

Verdict = Literal["appears", "does not appear", "cannot be told"]


class Shape(TypedDict):
    """One claim of the paper."""

    claim: str
    paper: str
    here: str
    verdict: Verdict


def shapes_of(
    figure: FigureOne, experiments: Mapping[str, Findings], within: float | None = None, across: float | None = None
) -> list[Shape]:
    """All claims for which there are numbers."""
    found = [_order(figure), _small_over_large(figure), _over_task_mixture(figure), _growing(figure)]
    found += [_gamma(experiments.get("gamma")), _kl(experiments.get("kl")), _likert(experiments.get("likert"))]
    found += [_learning_rate(experiments.get("learning-rate"))]
    if within is not None and across is not None:
        found.append(_labelers(within, across))
    return [shape for shape in found if shape is not None]


def verdict_of(better: Measure | None, worse: Measure | None) -> Verdict:
    """Whether one number is above another; "cannot be told" if their intervals overlap."""
    if better is None or worse is None:
        return "cannot be told"
    lows, highs = [_end(one, "low") for one in (better, worse)], [_end(one, "high") for one in (better, worse)]
    if lows[0] > highs[1]:
        return "appears"
    return "does not appear" if highs[0] < lows[1] else "cannot be told"


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict on a chain: it appears if every link does; a single link that does not appear refutes it."""
    found = list(verdicts)
    if "does not appear" in found:
        return "does not appear"
    return "cannot be told" if not found or "cannot be told" in found else "appears"


def _end(one: Measure, name: Literal["low", "high"]) -> float:
    end = one[name]
    return one["value"] if end is None else end


def _rate(row: SizeRow | None) -> Measure | None:
    return None if row is None else {"value": row["win_rate"], "low": row["low"], "high": row["high"]}


def _shown(one: Measure | None) -> str:
    return "n/a" if one is None else f"{100 * one['value']:.1f} %"


def _order(figure: FigureOne) -> Shape:
    largest = sizes_of(figure)[-1]
    chain = [lineup.BASE, lineup.PROMPTED_BASE, lineup.SFT, lineup.PPO_PTX]
    rates = [_rate(row_of(figure, model.name, largest)) for model in chain]
    links: list[Verdict] = [verdict_of(better, worse) for worse, better in pairwise(rates)]
    return {
        "claim": "Base < prompted base < SFT < PPO-ptx, at the largest size",
        "paper": "figure 1; against 175B SFT, InstructGPT wins 73.4 ± 2 %",
        "here": ", ".join(f"{model.label} {_shown(rate)}" for model, rate in zip(chain, rates, strict=True)),
        "verdict": all_of(links),
    }


def _small_over_large(figure: FigureOne) -> Shape | None:
    sizes = sizes_of(figure)
    if len(sizes) < 2:
        return None
    small, large = _rate(row_of(figure, lineup.PPO_PTX.name, sizes[0])), _rate(row_of(figure, lineup.BASE.name, sizes[-1]))
    return {
        "claim": "The smallest PPO-ptx is preferred to the largest base model",
        "paper": "1.3B InstructGPT is preferred to 175B GPT-3",
        "here": f"{sizes[0]} PPO-ptx {_shown(small)}, {sizes[-1]} base {_shown(large)}, each against the same SFT model",
        "verdict": verdict_of(small, large),
    }


def _over_task_mixture(figure: FigureOne) -> Shape:
    largest = sizes_of(figure)[-1]
    ours, mixture = (_rate(row_of(figure, model.name, largest)) for model in (lineup.PPO_PTX, lineup.TASK_MIXTURE))
    sft = _rate(row_of(figure, lineup.SFT.name, largest))
    return {
        "claim": "PPO-ptx and SFT are preferred to the task mixture (FLAN, T0)",
        "paper": "against 175B SFT, FLAN wins 29.8 ± 2 % and T0 26.8 ± 2 %",
        "here": f"task mixture {_shown(mixture)}, PPO-ptx {_shown(ours)}",
        "verdict": all_of([verdict_of(ours, mixture), verdict_of(sft, mixture)]),
    }


def _growing(figure: FigureOne) -> Shape | None:
    sizes = sizes_of(figure)
    if len(sizes) < 2:
        return None
    rates = [_rate(row_of(figure, lineup.PPO_PTX.name, size)) for size in sizes]
    return {
        "claim": "PPO-ptx gets better with size",
        "paper": "figure 1",
        "here": ", ".join(f"{size} {_shown(rate)}" for size, rate in zip(sizes, rates, strict=True)),
        "verdict": all_of(verdict_of(later, earlier) for earlier, later in pairwise(rates)),
    }


def _measure(point: Point | None, name: str) -> Measure | None:
    return None if point is None else point["measures"].get(name)


def _at(findings: Findings, series: str | None, largest: bool) -> Point | None:
    """The first seed's policy with the largest or smallest value of a line, or of all."""
    own = [point for point in findings["points"] if series in (None, point["series"])]
    return (max if largest else min)(own, key=lambda point: point["value"], default=None)


def _gamma(findings: Findings | None) -> Shape | None:
    if findings is None:
        return None
    without, most = _at(findings, None, largest=False), _at(findings, None, largest=True)
    base = findings["base"].get("benchmarks")
    scores = [_measure(point, "benchmarks") for point in (without, most)]
    return {
        "claim": "Pretraining gradients undo the alignment tax",
        "paper": "at 1.3B a coefficient of at least 20 recovers the regressions (figure 33)",
        "here": f"benchmarks: base {_shown(base)}, without {_shown(scores[0])}, most {_shown(scores[1])}",
        "verdict": verdict_of(scores[1], scores[0]),
    }


def _kl(findings: Findings | None) -> Shape | None:
    if findings is None:
        return None
    scores = [one for point in findings["points"] if (one := _measure(point, "benchmarks")) is not None]
    base, best = findings["base"].get("benchmarks"), max(scores, key=lambda one: one["value"], default=None)
    return {
        "claim": "No KL coefficient alone undoes it",
        "paper": "even 100 times the coefficient does not recover the regressions (figure 34)",
        "here": f"benchmarks: base {_shown(base)}, best of the sweep {_shown(best)}",
        "verdict": verdict_of(base, best),
    }


def _likert(findings: Findings | None) -> Shape | None:
    points = [] if findings is None else [point for point in findings["points"] if "likert" in point["measures"]]
    if len(points) < 3:
        return None
    ordered = sorted(points, key=lambda point: point["value"])
    best = max((point["measures"]["likert"] for point in ordered[1:-1]), key=lambda one: one["value"])
    above: list[Verdict] = [verdict_of(best, end["measures"]["likert"]) for end in (ordered[0], ordered[-1])]
    shown = ", ".join(f"{text_of(point['value'])}: {point['measures']['likert']['value']:.2f}" for point in ordered)
    return {
        "claim": "Overall quality is best between no and a large KL coefficient",
        "paper": "0 and 2 are both worse than 0.01 to 0.02 (figure 36)",
        "here": shown,
        "verdict": all_of(above),
    }


def _learning_rate(findings: Findings | None) -> Shape | None:
    if findings is None:
        return None
    plain, mixed = (_at(findings, series, largest=True) for series in ("PPO", "PPO-ptx"))
    if plain is None or mixed is None:
        return None
    verdict: Verdict = verdict_of(_measure(mixed, "win_rate"), _measure(plain, "win_rate"))
    if "diverged" in plain or "diverged" in mixed:
        verdict = "appears" if "diverged" not in mixed else "does not appear"
    words = [
        f"{name} {'diverged' if 'diverged' in point else _shown(_measure(point, 'win_rate'))}"
        for name, point in (("PPO", plain), ("PPO-ptx", mixed))
    ]
    return {
        "claim": "At high learning rates PPO breaks without pretraining gradients before it breaks with them",
        "paper": "without them every rate above 8.05e-6 diverges (figure 38)",
        "here": f"at {text_of(plain['value'])}: {', '.join(words)}",
        "verdict": verdict,
    }


def _labelers(within: float, across: float) -> Shape:
    return {
        "claim": "A reward model loses less than 5 points on labelers it never saw",
        "paper": "72.4 ± 0.4 % on its own labelers, 69.6 ± 0.9 % on the group left out (E.2)",
        "here": f"{100 * within:.1f} % and {100 * across:.1f} %",
        "verdict": "appears" if within - across < 0.05 else "does not appear",
    }
