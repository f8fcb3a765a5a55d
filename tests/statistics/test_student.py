"""Student's t against scipy."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from heedful.errors import DataError
from heedful.statistics.student import incomplete_beta, t_quantile


@pytest.mark.parametrize("degrees", [0.5, 1, 1.7, 2, 3.9, 10, 29.5, 200, 1e4, 1e6, 1e8, math.inf])
@pytest.mark.parametrize("probability", [0.01, 0.3, 0.5, 0.8, 0.975, 0.995])
def test_quantiles_are_scipys(probability: float, degrees: float) -> None:
    expected = stats.t.ppf(probability, degrees)
    assert t_quantile(probability, degrees) == pytest.approx(expected, rel=1e-7, abs=1e-12)


def test_the_tables_of_textbooks() -> None:
    assert [round(t_quantile(0.975, n), 3) for n in (1, 4, 10, 30)] == [12.706, 2.776, 2.228, 2.042]


def test_incomplete_beta_at_the_ends_and_inside() -> None:
    assert (incomplete_beta(2, 3, 0), incomplete_beta(2, 3, 1)) == (0, 1)
    assert incomplete_beta(2, 3, 0.4) == pytest.approx(0.5248)


@pytest.mark.parametrize(("probability", "degrees"), [(0, 3), (1, 3), (0.9, 0), (0.9, math.nan)])
def test_no_such_quantile(probability: float, degrees: float) -> None:
    with pytest.raises(DataError, match="no such quantile"):
        t_quantile(probability, degrees)
