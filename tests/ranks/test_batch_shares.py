"""Minibatches by number of tokens."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from heedful.ranks.batch_shares import split_by_tokens


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 60))
def test_minibatches_hold_every_index_once_in_order_and_stay_under_the_limit(lengths: list[int], tokens: int) -> None:
    groups = split_by_tokens(lengths, tokens=tokens)
    assert [i for group in groups for i in group] == list(range(len(lengths)))
    assert all(groups)
    assert all(len(group) == 1 or sum(lengths[i] for i in group) <= tokens for group in groups)
    for group, following in itertools.pairwise(groups):  # no group is closed too early
        assert sum(lengths[i] for i in group) + lengths[following[0]] > tokens
