"""Verdicts on the paper's shapes, by hand: intervals that do not overlap decide, nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from heedful.experiments.figure_one import FigureOne, paired
from heedful.experiments.findings import Findings
from heedful.experiments.paper_shapes import all_of, shapes_of, verdict_of
from heedful.experiments.reproduction_text import Reproduction, in_markdown, standalone


def measure(value: float, half: float = 0.02) -> Any:
    return {"value": value, "low": value - half, "high": value + half}


@pytest.mark.parametrize(
    ("better", "worse", "verdict"),
    [(0.6, 0.5, "appears"), (0.5, 0.6, "does not appear"), (0.52, 0.5, "cannot be told"), (0.5, 0.5, "cannot be told")],
)
def test_verdicts(better: float, worse: float, verdict: str) -> None:
    assert verdict_of(measure(better), measure(worse)) == verdict
    assert verdict_of(measure(better), None) == "cannot be told"


def test_a_chain() -> None:
    assert all_of(["appears", "appears"]) == "appears"
    assert all_of(["appears", "cannot be told"]) == "cannot be told"
    assert all_of(["cannot be told", "does not appear"]) == "does not appear"
    assert all_of([]) == "cannot be told"


RATES = {
    "small": {"base": 0.02, "prompted_base": 0.2, "task_mixture": 0.1, "sft": 0.4, "ppo_ptx": 0.55},
    "large": {"base": 0.05, "prompted_base": 0.3, "task_mixture": 0.2, "sft": 0.5, "ppo_ptx": 0.7},
}


def figure(rates: dict[str, dict[str, float]]) -> FigureOne:
    rows: list[Any] = [
        {"model": model, "label": model, "size": size, "parameters": 1, "faultless": 0.1}
        | {"win_rate": rate, "low": rate - 0.02, "high": rate + 0.02}
        for size, models in rates.items()
        for model, rate in models.items()
    ]
    return {"baseline": "large", "num_prompts": 100, "rows": rows}


def findings(points: list[tuple[str, float, dict[str, float] | None]], base: float = 0.9) -> Findings:
    """Points without measures have diverged."""
    rows: list[Any] = [
        {"series": series, "value": value, "seed": 0, "folder": "", "seconds": 1.0}
        | {"measures": {name: measure(level) for name, level in (own or {}).items()}}
        | ({} if own else {"diverged": "the loss is NaN"})
        for series, value, own in points
    ]
    found: Any = {
        "heedful": "0",
        "project": "mine",
        "labelers": "simulated",
        "experiment": "x",
        "title": "Title",
        "source": "figure",
        "paper": "It says.",
        "x": "value",
        "x_measure": None,
        "logarithmic": True,
        "panels": sorted({name for _, _, own in points for name in own or {}}),
        "episodes": 8,
        "prompts": 3,
        "samples": 1,
        "base": {"benchmarks": measure(base)},
        "points": rows,
        "best": None,
        "notes": [],
    }
    return found


EXPERIMENTS = {
    "gamma": findings([("PPO", 0, {"benchmarks": 0.5}), ("PPO-ptx", 1, {"benchmarks": 0.88})]),
    "kl": findings([("PPO", 0.2, {"benchmarks": 0.5}), ("PPO", 20, {"benchmarks": 0.7})]),
    "likert": findings([("PPO-ptx", v, {"likert": q}) for v, q in ((0, 3.0), (0.2, 4.0), (20, 3.5))]),
    "learning-rate": findings([("PPO", 1, {"win_rate": 0.6}), ("PPO", 9, None), ("PPO-ptx", 9, {"win_rate": 0.5})]),
}


def verdicts(rates: Any = RATES, experiments: Any = EXPERIMENTS, **groups: float) -> dict[str, str]:
    return {shape["claim"]: shape["verdict"] for shape in shapes_of(figure(rates), experiments, **groups)}


def test_the_papers_shapes_appear() -> None:
    found = verdicts(within=0.72, across=0.70)
    assert len(found) == 9
    assert set(found.values()) == {"appears"}


def test_they_do_not() -> None:
    rates = {size: {**models, "ppo_ptx": 0.01 if size == "large" else 0.03} for size, models in RATES.items()}
    experiments = {
        "gamma": findings([("PPO", 0, {"benchmarks": 0.8}), ("PPO-ptx", 1, {"benchmarks": 0.5})]),
        "kl": findings([("PPO", 0.2, {"benchmarks": 0.95}), ("PPO", 20, {"benchmarks": 0.7})]),
        "likert": findings([("PPO-ptx", v, {"likert": q}) for v, q in ((0, 5.0), (0.2, 4.0), (20, 3.5))]),
        "learning-rate": findings([("PPO", 9, {"win_rate": 0.6}), ("PPO-ptx", 9, None)]),
    }
    found = verdicts(rates, experiments, within=0.72, across=0.6)
    small_over_large = found.pop("The smallest PPO-ptx is preferred to the largest base model")
    assert small_over_large == "cannot be told"  # 3 against 5 %, give or take 2
    growing = found.pop("PPO-ptx gets better with size")
    assert growing == "cannot be told"
    assert set(found.values()) == {"does not appear"}


def test_a_reward_model_that_loses_nothing_is_within_five_points() -> None:
    found = verdicts(within=0.61, across=0.612)
    assert found["A reward model loses less than 5 points on labelers it never saw"] == "appears"


def test_quality_that_hardly_differs_cannot_be_told() -> None:
    likert = findings([("PPO-ptx", v, {"likert": q}) for v, q in ((0, 4.27), (0.2, 4.26), (20, 4.28))])
    found = verdicts(experiments={"likert": likert})
    assert found["Overall quality is best between no and a large KL coefficient"] == "cannot be told"


def test_what_was_not_run_has_no_verdict() -> None:
    one_size = {"large": {name: rate for name, rate in RATES["large"].items() if name != "task_mixture"}}
    found = verdicts(one_size, {})
    assert found == {
        "Base < prompted base < SFT < PPO-ptx, at the largest size": "appears",
        "PPO-ptx and SFT are preferred to the task mixture (FLAN, T0)": "cannot be told",
    }


def test_the_page_says_plainly_what_does_not_appear() -> None:
    results: Reproduction = {
        "heedful": "0",
        "command": "heedful reproduce --quick",
        "extent": "quick",
        "seed": 0,
        "figure_1": figure(RATES),
        "shapes": shapes_of(figure(RATES), {"kl": EXPERIMENTS["gamma"]}),
        "experimented": "small",
        "experiments": {"learning-rate": EXPERIMENTS["learning-rate"]},
        "labeler_groups": None,
    }
    page = in_markdown(results)
    assert "Only 2 base models ship" in page
    assert "A quick run" in page
    assert "Not shown here: 1 of 5 shapes.\n- No KL coefficient alone undoes it" in page
    assert "| PPO | 9 | 0 | diverged |" in page
    assert "| base | 2.0 % (0.0 to 4.0) | 5.0 % (3.0 to 7.0) |" in paired(figure(RATES)["rows"])
    assert standalone('<svg viewBox="0 0 1 1"><g/></svg>').startswith('<svg viewBox="0 0 1 1"><style>svg{--fig-ink:')
