"""Prompts of simulated users and the demonstrations of simulated labelers."""

from __future__ import annotations

import random

from heedful.conversation import turns_of
from heedful.miniature.good_answers import answer, drop_constraint
from heedful.miniature.instructions import USE_CASES, Instruction, make_instruction
from heedful.miniature.invented_world import World
from heedful.miniature.labelers import Labeler
from heedful.records import USE_CASE_SHARES, Prompt, Source, Split, UseCase

NUM_USERS = 240
"""Simulated users; each belongs to one split (SPEC 1.3)."""
MAX_PROMPT_WORDS = 70


def users_of(split: Split) -> list[str]:
    """Return the users of a split: 8 of 10 users are in train, 1 in valid, 1 in test."""
    wanted = {"train": range(8), "valid": (8,), "test": (9,)}[split]
    return [f"user-{i:03d}" for i in range(1, NUM_USERS + 1) if i % 10 in wanted]


def use_case_quota(count: int) -> dict[UseCase, int]:
    """Divide ``count`` prompts among the use cases by Table 1's shares, by largest remainder (SPEC 1.5)."""
    total = sum(USE_CASE_SHARES.values())
    exact: dict[UseCase, float] = {use_case: count * USE_CASE_SHARES[use_case] / total for use_case in USE_CASES}
    quota: dict[UseCase, int] = {use_case: int(value) for use_case, value in exact.items()}
    by_remainder = sorted(exact, key=lambda use_case: quota[use_case] - exact[use_case])
    for use_case in by_remainder[: count - sum(quota.values())]:
        quota[use_case] += 1
    return quota


def prompts(world: World, *, seed: int, count: int, split: Split, source: Source = "simulated") -> list[Prompt]:
    """Make ``count`` prompts of the split's users with Table 1's shares of use cases, in random order.

    The text ends with a newline, so that the answer begins on its own line. The same text occurs twice only if a use case has
    nothing new to ask after 20 tries.
    """
    rng = random.Random(f"prompts {world.seed} {seed} {split}")
    use_cases: list[UseCase] = [use_case for use_case, number in use_case_quota(count).items() for _ in range(number)]
    rng.shuffle(use_cases)
    users = users_of(split)
    # A few users write much and most write little (SPEC 1.6, Table 8).
    activity = [1 / (1 + 0.05 * i) for i in range(len(users))]
    seen: set[str] = set()
    found: list[Prompt] = []
    for i, use_case in enumerate(use_cases):
        instruction = _new_instruction(world, rng, use_case, seen)
        seen.add(instruction.text)
        found.append(
            Prompt(
                id=f"prompt-{split}-{seed}-{i:05d}",
                turns=turns_of(instruction.text + "\n"),
                use_case=use_case,
                source=source,
                user=rng.choices(users, weights=activity)[0],
                split=split,
                language="en",
                metadata=instruction.meta,
            )
        )
    return found


def _new_instruction(world: World, rng: random.Random, use_case: UseCase, seen: set[str]) -> Instruction:
    instruction = make_instruction(world, rng, use_case)
    for _ in range(20):
        if instruction.text not in seen and instruction.text.count(" ") < MAX_PROMPT_WORDS:
            break
        instruction = make_instruction(world, rng, use_case)
    return instruction


def demonstrate(world: World, prompt: Prompt, *, labeler: Labeler, seed: int) -> str:
    """Write a training labeler's own answer: good, in the labeler's style, and sometimes without one constraint."""
    rng = random.Random(f"demonstration {world.seed} {seed} {labeler.name} {prompt.id}")
    meta = dict(prompt.metadata)
    if rng.random() < labeler.sloppy:
        forgetful = drop_constraint(rng, meta)
        if forgetful is not None:
            return answer(world, rng, forgetful, labeler.style)
    return answer(world, rng, meta, labeler.style)


def few_shot_prefixes(world: World, *, seed: int, count: int = 5) -> list[str]:
    """Make candidate prefixes: two or three solved tasks in workbook format, every second one after an introduction."""
    rng = random.Random(f"prefixes {world.seed} {seed}")
    found = []
    for i in range(count):
        num_tasks = 2 + i % 2
        entries: list[str] = []
        use_cases: list[UseCase] = ["generation", rng.choice(("open_qa", "brainstorming", "chat")), "generation"]
        while len(entries) < num_tasks:
            entry = _solved(world, rng, use_cases[len(entries)])
            if entry is not None and entry.count(" ") < 75 // num_tasks:
                entries.append(entry)
        introduction = "These tasks are done with care.\n" if i % 2 else ""
        found.append(introduction + "\n".join(entries) + "\n")
    return found


def _solved(world: World, rng: random.Random, use_case: UseCase) -> str | None:
    task = make_instruction(world, rng, use_case)
    if "\n" in task.text or task.meta["task"] == "refuse":
        return None
    return f"Task: {task.text}\nAnswer: {answer(world, rng, task.meta)}"
