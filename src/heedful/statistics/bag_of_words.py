"""A reward model that only counts words: the accuracy that a real one must beat.

Logistic regression on differences between the square roots of two responses' word counts, with an L2 penalty. It is fitted on
training pairs and scored on others. If it comes close to the reward model, single words give the labels away.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from heedful.errors import DataError
from heedful.statistics.intervals import FloatArray, IntArray
from heedful.statistics.reward_breakdown import RankedPair

_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True, kw_only=True)
class BagOfWords:
    """A weight for each word; a response's score is the sum of weight * sqrt(count)."""

    weights: Mapping[str, float]

    def score(self, text: str) -> float:
        """Higher is better. Words that did not occur in training are ignored."""
        counts = Counter(words_of(text))
        return sum(self.weights.get(word, 0.0) * count**0.5 for word, count in counts.items())


def words_of(text: str) -> list[str]:
    """Words and single punctuation marks, in lower case."""
    return _WORD.findall(text.lower())


def fit_bag_of_words(
    pairs: Sequence[RankedPair], texts: Mapping[str, str], *, num_words: int = 5000, penalty: float = 1.0, steps: int = 200
) -> BagOfWords:
    """Weights that make sigmoid(score(preferred) - score(rejected)) large on ``pairs``; ``texts`` maps response id to text.

    Uses the ``num_words`` words that occur in most responses. Minimises mean(-log sigmoid(difference)) + penalty / (2 pairs) *
    |weights|^2 by accelerated gradient steps (Nesterov 1983), which are deterministic. Raises DataError without pairs, or if a
    response has no text.
    """
    if not pairs:
        raise DataError("no pairs to fit a bag of words to", expected="pairs that a labeler ordered", got="none")
    responses = sorted({one for pair in pairs for one in (pair.preferred, pair.rejected)})
    missing = next((one for one in responses if one not in texts), None)
    if missing is not None:
        raise DataError("a ranked response has no text", expected=f"a text for response {missing!r}", got="nothing")
    counts = {one: Counter(words_of(texts[one])) for one in responses}
    known = Counter(word for one in responses for word in counts[one])
    vocabulary = {
        word: i for i, (word, _) in enumerate(sorted(known.items(), key=lambda pair: (-pair[1], pair[0]))[:num_words])
    }
    rows, columns, values = _differences(pairs, counts, vocabulary)
    weights = _descend(rows, columns, values, len(pairs), len(vocabulary), penalty, steps)
    return BagOfWords(weights=dict(zip(vocabulary, weights.tolist(), strict=True)))


def _differences(
    pairs: Sequence[RankedPair], counts: Mapping[str, Counter[str]], vocabulary: Mapping[str, int]
) -> tuple[IntArray, IntArray, FloatArray]:
    """sqrt(count) in the preferred response minus that in the rejected one, as (pair, word, value) where it is not 0."""
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    for row, pair in enumerate(pairs):
        preferred, rejected = counts[pair.preferred], counts[pair.rejected]
        for word in dict.fromkeys([*preferred, *rejected]):
            value = preferred[word] ** 0.5 - rejected[word] ** 0.5
            if value and word in vocabulary:
                rows.append(row)
                columns.append(vocabulary[word])
                values.append(value)
    return np.array(rows, dtype=np.int64), np.array(columns, dtype=np.int64), np.array(values, dtype=np.float64)


def _descend(
    rows: IntArray, columns: IntArray, values: FloatArray, num_pairs: int, num_words: int, penalty: float, steps: int
) -> FloatArray:
    weights = np.zeros(num_words, dtype=np.float64)
    ahead = weights.copy()
    # The curvature is at most a quarter of the largest squared row norm, plus that of the penalty.
    largest = float(np.bincount(rows, weights=values**2, minlength=num_pairs).max(initial=0.0))
    step_size = 1 / (largest / 4 + penalty / num_pairs)
    for step in range(steps):
        difference = np.bincount(rows, weights=values * ahead[columns], minlength=num_pairs)
        pull = 1 / (1 + np.exp(np.clip(difference, -500, 500))) / num_pairs
        gradient = np.bincount(columns, weights=values * pull[rows], minlength=num_words) - penalty / num_pairs * ahead
        following = ahead + step_size * gradient
        ahead = following + step / (step + 3) * (following - weights)
        weights = following
    return weights
