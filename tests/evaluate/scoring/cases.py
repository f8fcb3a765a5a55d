"""Random cases for the metrics: the same ones everywhere, so that the official scripts' scores of them can be kept as a digest.

Texts mix articles, punctuation, numbers, hyphens, capitals, several scripts, odd spaces and empty answers. Responses are often
close to a reference: copies with words dropped, doubled, moved or changed in case.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

NUM_CASES = 10_000

_PLAIN = """
a an the The AN of in 1 2 3 10 3.0 03 1,000 12.5 -4 $7 50% 2nd half-time twenty-one x-1 U.S. Dr. it's don't -- ... (see) cat Cat
dog dogs house running runs river King queen Paris 1999 May 5 nan inf 1e3
Größe straße naïve café Ωmega 東京 大阪 привет мир été ½ ² ١٢ ７ İstanbul ﬁne a\u0301
"""
WORDS = (*_PLAIN.split(), "a-the", "the.", "«word»", "“quoted”", "tab\tbed", "no\u00a0break", "em—dash")


def text(generator: np.random.Generator, most: int = 7) -> str:
    words = [WORDS[i] for i in generator.integers(len(WORDS), size=int(generator.integers(0, most)))]
    return (" ", " ", " ", "  ", ", ")[int(generator.integers(5))].join(words)


def near(generator: np.random.Generator, given: str) -> str:
    """The text with one or two changes, or none."""
    words = given.split(" ")
    for _ in range(int(generator.integers(0, 3))):
        place = int(generator.integers(len(words)))
        change = int(generator.integers(5))
        if change == 0:
            words[place : place + 1] = []
        elif change == 1:
            words.insert(place, words[place])
        elif change == 2:
            words[place] = WORDS[int(generator.integers(len(WORDS)))]
        elif change == 3:
            words[place] = words[place].swapcase()
        else:
            words.append(words.pop(place))
        words = words or [""]
    return " ".join(words)


def one_text_cases(seed: int, most: int = 7, empty: str = "") -> Iterable[tuple[str, list[str]]]:
    """(response, references): one to four references, some of them ``empty``; every fifth case has only that."""
    generator = np.random.default_rng(seed)
    for case in range(NUM_CASES):
        references = [text(generator, most) for _ in range(int(generator.integers(1, 5)))]
        references = [empty if generator.random() < 0.1 else reference for reference in references]
        if case % 5 == 0:
            references = [empty]
        kind = generator.random()
        chosen = references[int(generator.integers(len(references)))]
        response = empty if kind < 0.15 else near(generator, chosen) if kind < 0.8 else text(generator, most)
        yield response, references


def span_cases(seed: int) -> Iterable[tuple[list[str], list[list[str]]]]:
    """(spans of the response, alternatives of one to four spans each); a third of the alternatives is a number."""
    generator = np.random.default_rng(seed)
    for _ in range(NUM_CASES):
        alternatives = [
            [str(round(float(generator.normal(scale=100)), int(generator.integers(0, 3))))]
            if generator.random() < 0.33
            else [text(generator, 5) or "x" for _ in range(int(generator.integers(1, 5)))]
            for _ in range(int(generator.integers(1, 4)))
        ]
        kind = generator.random()
        chosen = alternatives[int(generator.integers(len(alternatives)))]
        response = [near(generator, span) for span in chosen] if kind < 0.8 else [text(generator) for _ in range(2)]
        if generator.random() < 0.3:
            response = response[::-1]
        if generator.random() < 0.1:
            response = [*response, text(generator)]
        yield response, alternatives


def digest(scores: Iterable[Iterable[float]]) -> str:
    """Of every score, with ten decimals."""
    return hashlib.blake2b(
        "\n".join(" ".join(f"{score + 0.0:.10f}" for score in row) for row in scores).encode(), digest_size=12
    ).hexdigest()
