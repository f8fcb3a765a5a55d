from __future__ import annotations

import pytest

from heedful.training.ranking_accuracy import accuracy_by


def test_by_hand() -> None:
    """ann, K = 3: two pairs right and one of equal rewards, 2.5 of 3. bob: K = 2, 0 of 1; K = 3 with a tie, 1 of 2."""
    by_k, by_labeler = accuracy_by(
        [
            ("bob", (2, 1), (0.5, 0.25)),
            ("ann", (2, 1, 3), (0.1, 0.9, 0.1)),
            ("bob", (1, 1, 2), (0.3, 0.1, 0.2)),
        ]
    )
    assert by_k == {"2": 0.0, "3": pytest.approx(3.5 / 5)}
    assert by_labeler == {"ann": pytest.approx(2.5 / 3), "bob": pytest.approx(1 / 3)}


def test_a_response_that_a_labeler_did_not_rank_does_not_count() -> None:
    by_k, by_labeler = accuracy_by([("ann", (0, 1, 2, 0), (9.0, 0.4, 0.3, 9.0))])
    assert by_k == {"2": 1.0}
    assert by_labeler == {"ann": 1.0}


def test_a_ranking_without_a_comparison_is_left_out() -> None:
    assert accuracy_by([("ann", (1, 1), (0.1, 0.2)), ("bob", (1,), (0.1,)), ("cid", (0, 2), (1.0, 2.0))]) == ({}, {})
