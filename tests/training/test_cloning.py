from __future__ import annotations

from tests.training.test_reward import ranked, ranked_by_several

from heedful.model.encoding import Example
from heedful.training.cloning import preferred, preferred_examples

PROMPT, RESPONSES = [5, 6], [[1, 0], [2, 0], [3, 0], [4, 0]]


def test_the_best_ranked_response_is_cloned() -> None:
    rankings = [ranked(PROMPT, RESPONSES, 3, 1, 2, 4), ranked([7], [[8], [9]], 2, 1)]
    assert preferred_examples(rankings) == [Example(PROMPT, [2, 0]), Example([7], [9])]


def test_several_labelers_vote_with_all_their_comparisons() -> None:
    first, second = (1, 2, 3, 4), (4, 2, 1, 3)
    # response 0: 3 of 3, then 0 of 3; response 1: 2 and 2; response 2: 1 and 3; response 3: 0 and 1.
    assert preferred(ranked_by_several(PROMPT, RESPONSES, first, second)) == 1  # 4 of 6, as response 2: the first
    third = (3, 3, 1, 3)
    assert preferred(ranked_by_several(PROMPT, RESPONSES, first, second, third)) == 2


def test_a_tie_counts_half_and_a_response_that_one_labeler_saw_has_no_disadvantage() -> None:
    assert preferred(ranked(PROMPT, RESPONSES[:3], 2, 1, 1)) == 1
    # Response 3 was seen by the second labeler alone, and won both its comparisons.
    assert preferred(ranked_by_several(PROMPT, RESPONSES, (1, 2, 3, 0), (2, 0, 3, 1))) == 3
