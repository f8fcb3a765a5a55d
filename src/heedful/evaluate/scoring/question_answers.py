"""Rules for short answers, as in the official scripts of SQuAD 2.0 (Rajpurkar et al. 2018) and QuAC (Choi et al. 2018)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

CANNOT_ANSWER = "CANNOTANSWER"
"""QuAC's text for a question that the passage does not answer."""

HUMAN_F1_MINIMUM = 0.4
"""QuAC leaves out questions whose annotators agree less than this."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """Return the text in lower case, without ASCII punctuation and English articles, with single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(response: str, reference: str) -> float:
    """Return 1 if the two are equal after normalization, else 0."""
    return float(normalized(response) == normalized(reference))


def squad_f1(response: str, reference: str) -> float:
    """Return F1 of shared words, counting repeats. If either is empty after normalization: 1 if both are, else 0."""
    ours, theirs = normalized(response).split(), normalized(reference).split()
    return float(ours == theirs) if not ours or not theirs else _word_f1(ours, theirs)


def squad_references(references: Sequence[str]) -> list[str]:
    """Return the references that contain a word; for an unanswerable question, only the empty text."""
    return [reference for reference in references if normalized(reference)] or [""]


def quac_f1(response: str, reference: str) -> float:
    """Return F1 of shared words; ``CANNOTANSWER`` matches only itself."""
    if reference == CANNOT_ANSWER:
        return float(response == CANNOT_ANSWER)
    return _word_f1(normalized(response).split(), normalized(reference).split())


def quac_references(references: Sequence[str]) -> list[str]:
    """Return only ``CANNOTANSWER`` if at least half of the annotators wrote it, else all other references."""
    spans = [reference for reference in references if reference != CANNOT_ANSWER]
    return spans if len(spans) > len(references) - len(spans) else [CANNOT_ANSWER]


def quac_human_f1(references: Sequence[str]) -> float:
    """Return the average over annotators of their best match among the others; 1 with a single reference."""
    if len(references) == 1:
        return 1.0
    best = [
        max(_word_f1(normalized(own).split(), normalized(other).split()) for j, other in enumerate(references) if j != i)
        for i, own in enumerate(references)
    ]
    return sum(best) / len(best)


def _word_f1(ours: list[str], theirs: list[str]) -> float:
    common = sum((Counter(ours) & Counter(theirs)).values())
    if not common:
        return 0.0
    precision, recall = common / len(ours), common / len(theirs)
    return 2 * precision * recall / (precision + recall)
