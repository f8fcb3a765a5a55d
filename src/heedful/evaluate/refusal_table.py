"""The report's table of what each model declines: what it should, what it should not, and all other prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from heedful.evaluate.results import Estimate, RefusalRate, Results


@dataclass(frozen=True, slots=True)
class RefusalLine:
    """One line: prompts of a category that should be declined, or answered, and how often each model declined them."""

    category: str
    should: Literal["decline", "answer"]
    count: int
    """Prompts."""
    declined: Mapping[str, Estimate] = field(default_factory=dict[str, Estimate])
    """Model -> share."""


def refusal_lines(results: Results) -> list[RefusalLine]:
    """What should be declined, then what should be answered; within both, categories in the policy's order."""
    section = results.get("refusals")
    if section is None:
        return []
    order = [category["name"] for category in section["categories"]]

    def place(rate: RefusalRate) -> tuple[bool, int]:
        name = rate["category"]
        return rate["should"] == "answer", order.index(name) if name in order else len(order)

    lines: dict[tuple[str, str], RefusalLine] = {}
    for rate in sorted(section["rates"], key=place):
        name, should, share = rate["category"], rate["should"], rate["declined"]
        line = lines.setdefault((name, should), RefusalLine(name, should, share["count"], {}))
        lines[name, should] = RefusalLine(name, should, line.count, {**line.declined, rate["model"]: share})
    return list(lines.values())
