"""DROP's official rule: answers of one or more spans, numbers and dates (Dua et al. 2019).

Each span of the response is matched with at most one span of the reference so that the sum of F1 is largest. F1 compares sets
of words; if the reference's span holds a number, the response's must hold the same one.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def drop_scores(response: Sequence[str], reference: Sequence[str]) -> tuple[float, float]:
    """Return exact match and F1 (rounded to two decimals like the official script) of two answers of one or more spans."""
    ours, theirs = [_normalized(span) for span in response], [_normalized(span) for span in reference]
    exact = float(set(ours) == set(theirs) and len(ours) == len(theirs))
    ours_words, theirs_words = [set(span.split()) for span in ours], [set(span.split()) for span in theirs]
    table = [[_matched_f1(own, other) for own in ours_words] for other in theirs_words]
    matched = np.zeros(max(len(ours), len(theirs)))
    for row, column in best_assignment(table):
        matched[row] = table[row][column]
    # numpy's rounding, as in the official script: it differs from Python's where the third decimal is a 5.
    return exact, float(np.round(np.mean(matched), 2))


def best_assignment(gains: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """Find pairs (row, column) with the largest sum of gains; each row and column is used at most once.

    Shortest augmenting paths (Crouse 2016). Among equal assignments it chooses the same one as ``scipy.optimize``, which the
    official script uses before it rounds.
    """
    if len(gains) > len(gains[0]):
        turned = [list(column) for column in zip(*gains, strict=True)]
        return sorted((row, column) for column, row in best_assignment(turned))
    num_rows, num_columns = len(gains), len(gains[0])
    row_price, column_price = [0.0] * num_rows, [0.0] * num_columns
    column_of, row_of = [-1] * num_rows, [-1] * num_columns
    for start in range(num_rows):
        came_from, shortest = [-1] * num_columns, [math.inf] * num_columns
        remaining, visited = list(range(num_columns))[::-1], [start]
        row, distance, column = start, 0.0, -1
        while column < 0 or row_of[column] >= 0:
            if column >= 0:
                row = row_of[column]
                visited.append(row)
            nearest, best = -1, math.inf
            for place, other in enumerate(remaining):
                reduced = distance - gains[row][other] - row_price[row] - column_price[other]
                if reduced < shortest[other]:
                    shortest[other], came_from[other] = reduced, row
                if shortest[other] < best or (shortest[other] == best and row_of[other] < 0):
                    nearest, best = place, shortest[other]
            distance, column = best, remaining[nearest]
            remaining[nearest] = remaining[-1]
            remaining.pop()
        row_price[start] += distance
        for other in visited[1:]:
            row_price[other] += distance - shortest[column_of[other]]
        for other in set(range(num_columns)) - set(remaining):
            column_price[other] -= distance - shortest[other]
        while True:
            row = came_from[column]
            row_of[column], column_of[row], column = row, column, column_of[row]
            if row == start:
                break
    return list(enumerate(column_of))


def _matched_f1(ours: set[str], theirs: set[str]) -> float:
    numbers = {word for word in theirs if _is_number(word)}
    if numbers and not numbers & ours:
        return 0.0
    common = len(ours & theirs)
    precision = common / len(ours) if ours else 1.0
    recall = common / len(theirs) if theirs else 1.0
    return 2 * precision * recall / (precision + recall) if precision or recall else 0.0


def _normalized(span: str) -> str:
    words = [_normalized_word(word.lower()) for word in re.split(" |-", span)]
    return " ".join(word for word in words if word.strip()).strip()


@lru_cache(maxsize=100_000)
def _normalized_word(word: str) -> str:
    plain = word if _is_number(word) else word.translate(_PUNCTUATION)
    number = str(float(plain)) if _is_number(plain) else plain
    return " ".join(_ARTICLES.sub(" ", number).split())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
