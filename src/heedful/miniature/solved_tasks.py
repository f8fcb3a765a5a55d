"""Solved language tasks with instructions in front, like FLAN and T0 (SPEC 3.7), of the same kinds as our benchmarks.

The miniature can make any number of benchmark items. Those that train a task mixture come from another seed, and none repeats a
benchmark's question. Misconceptions and paired bias are left out, because FLAN and T0 contain neither TruthfulQA nor
Winogender.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from heedful.conversation import Turn
from heedful.miniature.benchmark_items import Benchmark, Item, benchmarks
from heedful.miniature.invented_world import LANGUAGE, World
from heedful.project.data_folder import Records
from heedful.records import Demonstration, Prompt

NUM_TASKS = {"train": 3_000, "valid": 100}
"""Solved tasks of all kinds together."""
_SEED = 77
_STARTS: Mapping[str, str] = {"reading": "Text: ", "sentiment": "Review: ", "translation": "English: "}
"""What the last question of an item begins with, behind its solved examples."""
_INSTRUCTIONS: Mapping[str, tuple[str, ...]] = {
    "reading": ("Answer the question about the text.", "Read the text, then answer.", ""),
    "sentiment": ("Is this review good or bad?", "Say the verdict of the review.", ""),
    "translation": (f"Translate into {LANGUAGE}.", f"Say this in {LANGUAGE}.", ""),
    "endings": ("Write the last sentence of the story.", "How does the story end?", ""),
    "counting": ("Count the things.", "How many things are in the list?", ""),
}


def solved_tasks(world: World, *, seed: int, benchmark_seed: int, benchmark_items: int) -> Records:
    """Make prompts with demonstrations. None of them is among the benchmarks' questions."""
    asked = {
        question(benchmark.name, item)
        for benchmark in benchmarks(world, seed=benchmark_seed, items=benchmark_items)
        if benchmark.name in _INSTRUCTIONS
        for item in benchmark.items
    }
    total = sum(NUM_TASKS.values())
    made = [one for one in benchmarks(world, seed=_SEED + seed, items=total // len(_INSTRUCTIONS)) if one.name in _INSTRUCTIONS]
    rng = random.Random(f"task mixture {world.seed} {seed}")
    mixed = [(benchmark, item) for benchmark in made for item in benchmark.items if question(benchmark.name, item) not in asked]
    rng.shuffle(mixed)
    records: list[Prompt | Demonstration] = []
    for number, (benchmark, item) in enumerate(mixed):
        split = "valid" if number < NUM_TASKS["valid"] else "train"
        text = _instructed(rng, benchmark, item)
        prompt = Prompt(id=f"task-{number}", turns=(Turn(role="user", text=text),), source="simulated", split=split)
        answer = item.accepted[0] if item.answer is None else item.choices[item.answer].strip()
        records += [prompt, Demonstration(id=f"solved-{number}", prompt_id=prompt.id, text=answer, labeler="task mixture")]
    return Records.of(records)


def question(name: str, item: Item) -> str:
    """Return an item without the solved examples in front of it."""
    if name == "counting":
        return item.context.rsplit("\n", 1)[-1]
    start = _STARTS.get(name)
    return item.context if start is None else item.context[item.context.rindex(start) :]


def _instructed(rng: random.Random, benchmark: Benchmark, item: Item) -> str:
    instruction = rng.choice(_INSTRUCTIONS[benchmark.name])
    asked = question(benchmark.name, item)
    return f"{instruction}\n{asked}\n" if instruction else f"{asked}\n"
