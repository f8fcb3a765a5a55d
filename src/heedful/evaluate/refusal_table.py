"""The report's table of what each model declines: what it should, what it should not, and all other prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from heedful.evaluate.results import Estimate, RefusalRate, Results


@dataclass(frozen=True, slots=True)
class RefusalLine:
    """One line: prompts of a category that should be declined, or answered, and how often each model declined them."""

    category: str
    should: Literal["decline", "answer"]
    count: int
    """Prompts."""
    declined: Mapping[str, Estimate]
    """Model -> share."""


def refusal_lines(results: Results) -> list[RefusalLine]:
    """What should be declined, then what should be answered; within both, categories in the policy's order."""
    section = results.get("refusals")
    if section is None:
        return []
    order = [category["name"] for category in section["categories"]]

    def place(rate: RefusalRate) -> tuple[bool, int, str]:
        name = rate["category"]
        return rate["should"] == "answer", order.index(name) if name in order else len(order), name

    lines: list[RefusalLine] = []
    for _, group in groupby(sorted(section["rates"], key=place), key=place):
        rates = list(group)
        declined = {rate["model"]: rate["declined"] for rate in rates}
        lines.append(RefusalLine(rates[0]["category"], rates[0]["should"], rates[0]["declined"]["count"], declined))
    return lines
