"""Few-shot prompting of the base model, the paper's "GPT-3 prompted" (SPEC 3.7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from heedful.records import Demonstration, Prompt, Response

_STARTS = ("", "These tasks were done with care.\n")
_TASK, _ANSWER = "Task: ", "\nAnswer:"


def candidate_prefixes(
    prompts: dict[str, Prompt], demonstrations: Sequence[Demonstration], *, seed: int, count: int = 4, largest: int = 1_200
) -> tuple[str, ...]:
    """Prefixes made of two or three of the project's training demonstrations, each shorter than about ``largest`` characters.

    Returns none if fewer than three demonstrations are short enough.
    """
    short = [
        d
        for d in demonstrations
        if prompts[d.prompt_id].split == "train"
        and len(prompts[d.prompt_id].text) + len(d.text) < largest // 3
        and d.text.strip()
    ]
    rng = np.random.default_rng([seed, 4])
    found: list[str] = []
    for i in range(count if len(short) >= 3 else 0):
        chosen = rng.choice(len(short), size=2 + i % 2, replace=False)
        examples = [with_prefix("", prompts[short[j].prompt_id].text) + " " + short[j].text.strip() + "\n" for j in chosen]
        found.append(_STARTS[i % len(_STARTS)] + "".join(examples))
    return tuple(found)


def with_prefix(prefix: str, prompt_text: str) -> str:
    """The text that the base model continues: the prefix, then the instruction in the same format, ready to be answered."""
    return f"{prefix}{_TASK}{prompt_text.strip()}{_ANSWER}"


def cut_answer(response: Response) -> Response:
    """The answer in a prompted base model's continuation: everything before it begins another task."""
    text, found, _ = response.text.partition("\nTask:")
    return replace(response, text=text.strip(), finished=response.finished or bool(found))
