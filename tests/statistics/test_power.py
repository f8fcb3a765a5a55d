"""Power: against the textbook's number, and against simulated studies of the planned size."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from tests.statistics.studies import Design, as_outcomes, crossing, outcomes, true_win_rate

from heedful.errors import DataError
from heedful.statistics import VarianceShares, prompts_needed, study_power, two_way_win_rate, variance_shares
from heedful.statistics.power import _chi_square_nodes

NUM_STUDIES = 2000


def test_independent_comparisons_are_the_textbooks() -> None:
    """60 % against 50 %, nothing shared: n = (1.96 * sqrt(0.25) + 0.84 * sqrt(0.24))^2 / 0.1^2 = 194, and some."""
    none = VarianceShares(prompt=0, labeler=0)
    power = study_power(0.6, none, num_prompts=194, num_labelers=100_000, labelers_per_prompt=1)
    assert power == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("degrees", [1, 4, 11, 300])
def test_chi_square_nodes(degrees: float) -> None:
    values, weights = np.array(_chi_square_nodes(degrees)).T
    for quantity in (np.log, np.sqrt, lambda x: x, lambda x: x**2):
        expected = stats.chi2(degrees).expect(lambda c, of=quantity: of(c / degrees))
        assert float((quantity(values) * weights).sum()) == pytest.approx(expected, abs=0.01)


def test_ties_cost_nothing_but_labelers_do() -> None:
    shares = VarianceShares(prompt=0.1, labeler=0.02)
    plan = {"num_labelers": 20, "labelers_per_prompt": 3}
    plain = prompts_needed(0.6, shares, **plan)
    tied = prompts_needed(0.6, shares, tie_rate=0.3, **plan)
    assert tied.num_prompts < plain.num_prompts, "halves vary less than wins and losses"
    assert prompts_needed(0.6, shares, num_labelers=12, labelers_per_prompt=3).num_prompts > plain.num_prompts
    assert plain.num_comparisons == 3 * plain.num_prompts
    assert plain.power >= 0.8 > study_power(0.6, shares, num_prompts=plain.num_prompts - 1, **plan)


def test_no_number_of_prompts_is_enough() -> None:
    with pytest.raises(DataError, match="no number of prompts") as error:
        prompts_needed(0.55, VarianceShares(prompt=0.1, labeler=0.1), num_labelers=5, labelers_per_prompt=2)
    assert "more labelers" in str(error.value)


def shares_of(design: Design, mean: float) -> tuple[VarianceShares, float]:
    """The true shares and tie rate of a design, from 400,000 pairs of comparisons that share a prompt or a labeler."""
    generator = np.random.default_rng(1)
    size = 400_000
    prompt, prompt_2 = generator.normal(scale=design.prompt_effect, size=(2, size))
    labeler, labeler_2 = generator.normal(scale=design.labeler_effect, size=(2, size))
    first = as_outcomes(mean + prompt + labeler + generator.logistic(size=size))
    same_prompt = as_outcomes(mean + prompt + labeler_2 + generator.logistic(size=size))
    same_labeler = as_outcomes(mean + prompt_2 + labeler + generator.logistic(size=size))
    total = first.var()
    shares = VarianceShares(
        prompt=float(np.cov(first, same_prompt)[0, 1] / total), labeler=float(np.cov(first, same_labeler)[0, 1] / total)
    )
    return shares, float((first == 0.5).mean())


@pytest.mark.parametrize(
    ("mean", "design"),
    [
        (0.5, Design(name="12", num_prompts=0, num_labelers=12, judgements=3, prompt_effect=1.0, labeler_effect=0.4)),
        (0.4, Design(name="30", num_prompts=0, num_labelers=30, judgements=2, prompt_effect=1.2, labeler_effect=0.6)),
    ],
    ids=lambda value: value.name if isinstance(value, Design) else str(value),
)
def test_the_planned_number_gives_the_power(mean: float, design: Design) -> None:
    shares, tie_rate = shares_of(design, mean)
    truth = true_win_rate(design, mean)
    plan = prompts_needed(
        truth, shares, num_labelers=design.num_labelers, labelers_per_prompt=design.judgements, tie_rate=tie_rate
    )
    planned = Design(
        name=design.name,
        num_prompts=plan.num_prompts,
        num_labelers=design.num_labelers,
        judgements=design.judgements,
        prompt_effect=design.prompt_effect,
        labeler_effect=design.labeler_effect,
    )
    generator = np.random.default_rng(2)
    prompts, labelers = crossing(planned, generator)
    found = 0
    for study in outcomes(planned, prompts, labelers, NUM_STUDIES, generator, mean):
        interval = two_way_win_rate(study, prompts, labelers).two_way
        found += not interval.low <= 0.5 <= interval.high
    assert found / NUM_STUDIES == pytest.approx(0.8, abs=0.02)


def test_shares_are_estimated_without_bias() -> None:
    design = Design(name="", num_prompts=150, num_labelers=15, judgements=3, prompt_effect=1.0, labeler_effect=0.6)
    truth, _ = shares_of(design, 0.4)
    generator = np.random.default_rng(3)
    prompts, labelers = crossing(design, generator)
    found = [variance_shares(study, prompts, labelers) for study in outcomes(design, prompts, labelers, 300, generator)]
    assert np.mean([shares.prompt for shares in found]) == pytest.approx(truth.prompt, abs=0.01)
    assert np.mean([shares.labeler for shares in found]) == pytest.approx(truth.labeler, abs=0.01)


def test_what_cannot_be() -> None:
    with pytest.raises(DataError, match="not shares"):
        VarianceShares(prompt=0.7, labeler=0.7)
    shares = VarianceShares(prompt=0.1, labeler=0.1)
    with pytest.raises(DataError, match="no such study"):
        study_power(0.95, shares, num_prompts=9, num_labelers=3, labelers_per_prompt=1, tie_rate=0.2)
    with pytest.raises(DataError, match="no such study"):
        study_power(0.6, shares, num_prompts=9, num_labelers=3, labelers_per_prompt=4)
    with pytest.raises(DataError, match="cannot be told apart"):
        variance_shares([1, 0], ["p", "q"], ["a", "b"])
    with pytest.raises(DataError, match="all outcomes are the same"):
        variance_shares([1] * 4, ["p", "p", "q", "q"], ["a", "b", "a", "b"])
