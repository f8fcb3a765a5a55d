"""Reward accuracy by use case, margin and length; the bag-of-words rule; best of n."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import statsmodels.api as sm

from heedful.errors import DataError
from heedful.records import Ranking
from heedful.statistics import (
    RankedPair,
    accuracy_where_longer_loses,
    best_of_n,
    best_of_n_kl,
    fit_bag_of_words,
    pair_accuracy,
    ranked_pairs,
    reward_accuracy,
    reward_accuracy_by_margin,
    reward_accuracy_by_use_case,
)


def ranking(prompt: str, ranks: tuple[int, ...], labeler: str = "ann") -> Ranking:
    return Ranking(
        id=f"{prompt}-{labeler}",
        prompt_id=prompt,
        response_ids=tuple(f"{prompt}{i}" for i in range(len(ranks))),
        ranks=ranks,
        labeler=labeler,
    )


RANKINGS = [ranking("p", (1, 2, 2)), ranking("q", (2, 1))]
SCORES = {"p0": 3.0, "p1": 1.0, "p2": 4.0, "q0": 0.0, "q1": 0.0}


def test_pairs() -> None:
    assert [(pair.preferred, pair.rejected) for pair in ranked_pairs(RANKINGS)] == [("p0", "p1"), ("p0", "p2"), ("q1", "q0")]
    assert pair_accuracy(ranked_pairs(RANKINGS), SCORES).value == reward_accuracy(RANKINGS, SCORES).value == 0.5


def test_by_use_case() -> None:
    found = reward_accuracy_by_use_case(
        [*RANKINGS, ranking("r", (1, 1))], SCORES | {"r0": 1, "r1": 2}, {"p": "chat", "q": None}
    )
    assert {case: (estimate.value, estimate.count) for case, estimate in found.items()} == {
        "chat": (0.5, 2),
        "unknown": (0.5, 1),
    }


def test_by_margin() -> None:
    """Right on the ten large margins, wrong on the ten small ones."""
    rankings = [ranking(f"m{i:02d}", (1, 2)) for i in range(20)]
    scores = {
        f"m{i:02d}{j}": (i - 9.5 if j == 0 else 0.0) + (20.0 if i > 9 and j == 0 else 0.0) for i in range(20) for j in range(2)
    }
    found = reward_accuracy_by_margin(rankings, scores, num_bins=2)
    assert [(one.accuracy.value, one.accuracy.count) for one in found] == [(0, 10), (1, 10)]
    assert found[0].high < found[1].low
    assert reward_accuracy_by_margin([], {}) == []
    same = reward_accuracy_by_margin(rankings, dict.fromkeys(scores, 1.0))
    assert [(one.low, one.high, one.accuracy.value) for one in same] == [(0, 0, 0.5)]


def test_where_longer_loses() -> None:
    lengths = {"p0": 5, "p1": 9, "p2": 2, "q0": 7, "q1": 3}
    found = accuracy_where_longer_loses(RANKINGS, SCORES, lengths)
    assert (found.value, found.count) == (0.75, 2)
    longest = {name: float(length) for name, length in lengths.items()}
    assert accuracy_where_longer_loses(RANKINGS, longest, lengths).value == 0
    with pytest.raises(DataError, match="no score"):
        accuracy_where_longer_loses(RANKINGS, SCORES, {"p0": 1})


def pair(i: int) -> RankedPair:
    return RankedPair(prompt_id=f"p{i}", labeler="ann", preferred=f"{i}w", rejected=f"{i}l")


def test_a_bag_of_words_learns_single_words_and_nothing_else() -> None:
    generator = np.random.default_rng(0)
    words = [f"w{i}" for i in range(30)]
    texts = {f"{i}{side}": " ".join(generator.choice(words, size=8)) for i in range(400) for side in "wl"}
    pairs = [pair(i) for i in range(400)]
    by_chance = fit_bag_of_words(pairs[:200], texts)
    scores = {name: by_chance.score(text) for name, text in texts.items()}
    assert pair_accuracy(pairs[200:], scores).value == pytest.approx(0.5, abs=0.1)
    polite = texts | {f"{i}w": texts[f"{i}w"] + " Please!" for i in range(400)}
    learned = fit_bag_of_words(pairs[:200], polite)
    assert pair_accuracy(pairs[200:], {name: learned.score(text) for name, text in polite.items()}).value > 0.95
    assert max(learned.weights, key=lambda word: learned.weights[word]) in ("please", "!")
    assert learned.score("never seen") == 0


def test_a_bag_of_words_is_a_penalised_logistic_regression() -> None:
    """Two words, so that statsmodels' ridge fit can say where the optimum is."""
    generator = np.random.default_rng(1)
    counts = generator.integers(0, 5, size=(100, 2, 2))
    texts = {f"{i}{'wl'[j]}": "a " * counts[i, j, 0] + "b " * counts[i, j, 1] for i in range(100) for j in range(2)}
    difference = np.sqrt(counts[:, 0]) - np.sqrt(counts[:, 1])
    design = np.concatenate([difference, -difference])
    model = sm.Logit(np.repeat([1.0, 0.0], 100), design)
    found = fit_bag_of_words([pair(i) for i in range(100)], texts, penalty=3.0, steps=3000).weights
    at = np.array([found["a"], found["b"]])
    np.testing.assert_allclose(model.score(at) / 2, 3.0 * at, atol=1e-6)


def test_what_a_bag_of_words_cannot_do() -> None:
    with pytest.raises(DataError, match="no pairs"):
        fit_bag_of_words([], {})
    with pytest.raises(DataError, match="no text"):
        fit_bag_of_words([pair(0)], {"0w": "x"})


def test_best_of_n_is_the_mean_over_all_subsets() -> None:
    generator = np.random.default_rng(2)
    scores = {"p": generator.normal(size=7).tolist(), "q": [1.0, 2.0, 2.0, 5.0, 0.0, 5.0, 3.0]}
    values = {prompt: generator.normal(size=7).tolist() for prompt in scores}
    for n in (1, 2, 4, 7):
        expected = np.mean([np.mean([max(subset) for subset in combinations(own, n)]) for own in scores.values()])
        assert best_of_n(scores, [n])[n].value == pytest.approx(expected)
    chosen = [values["p"][max(subset, key=lambda i: scores["p"][i])] for subset in combinations(range(7), 3)]
    one = best_of_n({"p": scores["p"]}, [3], values={"p": values["p"]})
    assert one[3].value == pytest.approx(np.mean(chosen))


def test_best_of_n_is_unbiased_and_its_interval_is_over_prompts() -> None:
    """The largest of 4 normal samples is 1.0294 on average (Harter 1961)."""
    samples = np.random.default_rng(3).normal(size=(4000, 9))
    found = best_of_n({str(i): row.tolist() for i, row in enumerate(samples)}, [1, 4])
    assert found[4].value == pytest.approx(1.0294, abs=0.03)
    assert found[4].low < 1.0294 < found[4].high
    assert found[4].count == 4000
    assert found[1].value == pytest.approx(samples.mean())


def test_equal_scores_share_their_chance() -> None:
    assert best_of_n({"p": [1.0, 1.0, 0.0]}, [3], values={"p": [4.0, 8.0, 0.0]})[3].value == 6


def test_best_of_n_kl() -> None:
    assert best_of_n_kl(1) == 0
    assert best_of_n_kl(64) == pytest.approx(math.log(64) - 63 / 64)


def test_best_of_more_than_there_are() -> None:
    with pytest.raises(DataError, match="best of 3"):
        best_of_n({"p": [1.0, 2.0]}, [3])
    with pytest.raises(DataError, match="do not match"):
        best_of_n({"p": [1.0, 2.0]}, [1], values={"p": [1.0]})
    with pytest.raises(DataError, match="nothing to choose"):
        best_of_n({}, [1])
