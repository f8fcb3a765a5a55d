"""Disagreement of an ensemble, by hand."""

from __future__ import annotations

import math

import pytest

from heedful.errors import DataError
from heedful.statistics import disagreement


def test_two_members_and_two_outputs_by_hand() -> None:
    # Differences log 3 and -log 3: chances 3/4 and 1/4, whose variance is (1/4)**2.
    assert disagreement([[math.log(3), 0.0], [0.0, math.log(3)]]) == pytest.approx(1 / 16)
    # Three outputs: the pairs (0, 1) as above, (0, 2) with chances 3/4 and 1/2, (1, 2) with 1/2 and 3/4.
    expected = (1 / 16 + 1 / 64 + 1 / 64) / 3
    assert disagreement([[math.log(3), 0.0, 0.0], [0.0, math.log(3), 0.0]]) == pytest.approx(expected)


def test_a_constant_of_one_member_changes_nothing() -> None:
    rewards = [[0.3, -1.2, 2.0], [0.1, 0.4, -0.5], [1.0, 0.0, 0.0]]
    moved = [[one + shift for one in row] for row, shift in zip(rewards, (5.0, -3.0, 0.0), strict=True)]
    assert disagreement(moved) == pytest.approx(disagreement(rewards))


def test_bounds() -> None:
    assert disagreement([[1.0, 2.0, 3.0]] * 4) == 0
    assert disagreement([[1.0], [2.0]]) == 0
    assert disagreement([[1e3, -1e3], [-1e3, 1e3]]) == pytest.approx(0.25)
    with pytest.raises(DataError, match="at least two members"):
        disagreement([[1.0, 2.0]])
