"""The table of a second reward model: its win rates by hand, with invented scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.real.second_judge import (
    Answers,
    Comparisons,
    best_of,
    comparisons,
    ended,
    samples_of,
    win_rate,
    win_rate_at_equal_length,
)

from heedful.records import Response


def answers(texts: Mapping[str, str], *, finished: bool = True) -> Answers:
    return {prompt: Response(id=text, prompt_id=prompt, text=text, finished=finished) for prompt, text in texts.items()}


def length(responses: Sequence[Response]) -> list[float]:
    """A judge that likes long answers, and finished ones a little more."""
    return [len(response.text) + 0.5 * bool(response.finished) for response in responses]


def test_a_win_is_a_higher_score_than_each_other_answer_to_the_same_prompt_and_a_tie_is_half() -> None:
    others = [answers({"p": "aa", "q": "aaaa"}), answers({"p": "aaa", "q": "aaaa"})]
    # p: above "aa", equal to "aaa": 0.75. q: below both: 0.
    assert win_rate(comparisons([answers({"q": "a", "p": "bbb"})], others, length)).value == pytest.approx(0.375)
    # A second group that wins all four: (0.375 + 1) / 2.
    groups = [answers({"p": "bbb", "q": "a"}), answers({"p": "bbbbb", "q": "bbbbb"})]
    assert win_rate(comparisons(groups, others, length)).value == pytest.approx(0.6875)


def test_as_if_ended_only_the_text_counts() -> None:
    cut, others = [answers({"p": "aa"}, finished=False)], [answers({"p": "bb"})]
    assert win_rate(comparisons(cut, others, length)).value == 0.0
    assert win_rate(comparisons(cut, others, ended(length))).value == 0.5


def test_lengths_are_counted_in_words_beyond_the_other_answer() -> None:
    found = comparisons([answers({"p": "a b c", "q": "a"})], [answers({"p": "a", "q": "a b"})], length)
    assert found.longer.tolist() == [[2.0], [-1.0]]


def test_at_equal_length_is_where_the_regression_crosses_zero() -> None:
    # By hand: x = -2, 0, 1, 3 and y = 1, 0.5, 0.5, 0. Slope -2.5 / 13, intercept 0.5 + 0.5 * 2.5 / 13 = 0.59615.
    found = Comparisons(np.array([[1.0, 0.5], [0.5, 0.0]]), np.array([[-2.0, 0.0], [1.0, 3.0]]))
    estimate = win_rate_at_equal_length(found)
    assert estimate.value == pytest.approx(0.5 + 0.5 * 2.5 / 13)
    assert estimate.low <= estimate.value <= estimate.high
    # If only length decides, the win rate at equal length is a half.
    x = np.arange(-6.0, 10.0).reshape(8, 2)
    assert win_rate_at_equal_length(Comparisons(0.5 - x / 20, x)).value == pytest.approx(0.5)


def test_the_best_of_several_samples_is_chosen_by_reward_prompt_by_prompt(tmp_path: Path) -> None:
    for number, (p, q) in enumerate([(1.0, 0.0), (0.5, 2.0), (-1.0, 1.0)], start=1):
        rows = [
            {"prompt_id": name, "text": f"{name}{number}", "finished": number == 2, "reward": reward, "tokens": 1}
            for name, reward in (("p", p), ("q", q))
        ]
        (tmp_path / f"samples-{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = samples_of(tmp_path)
    of_all = {prompt: (one.text, one.finished) for prompt, one in best_of(samples).items()}
    assert of_all == {"p": ("p1", False), "q": ("q2", True)}
    assert {prompt: one.text for prompt, one in best_of(samples[2:]).items()} == {"p": "p3", "q": "q3"}
