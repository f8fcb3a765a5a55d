"""The miniature as an ordinary project folder: prompts, demonstrations and pretraining text, all written by the simulation."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from heedful.errors import ConfigError, UserError
from heedful.miniature.corpus import documents
from heedful.miniature.invented_world import World
from heedful.miniature.tasks import prompts
from heedful.project.files import write_atomically, write_jsonl
from heedful.project.project import Project
from heedful.records import Prompt

WORLD_SEED = 0
"""The base models were pretrained on this world."""
DEMONSTRATED = {"train": 150, "valid": 100}
"""Prompts with a demonstration."""
UNLABELED = {"train": 22_000, "valid": 500, "test": 1_100}
"""Further prompts, for rankings, PPO and evaluation."""
OF_FURTHER_ROUND = {"train": 6_000, "valid": 300, "test": 600}
"""New prompts of each further round."""
PRETRAINING_DOCUMENTS = {"train": 30_000, "valid": 500}
_SEEDS = {"train": 11, "valid": 12, "test": 13}


def miniature_prompts(world: World, *, seed: int) -> tuple[list[Prompt], list[Prompt]]:
    """Return all prompts of the miniature, and those of them that get a demonstration."""
    everything: list[Prompt] = []
    demonstrated: list[Prompt] = []
    for split, unlabeled in UNLABELED.items():
        labeled = DEMONSTRATED.get(split, 0)
        made = prompts(world, seed=seed * 1_000 + _SEEDS[split], count=labeled + unlabeled, split=split)  # pyright: ignore[reportArgumentType]
        everything += made
        demonstrated += made[:labeled]
    return everything, demonstrated


def new_prompts(world: World, *, seed: int, round: int, known: Iterable[Prompt]) -> list[Prompt]:
    """Make the prompts of a further round, without those whose text is already known."""
    seen = {prompt.text for prompt in known}
    found: list[Prompt] = []
    for place, (split, count) in enumerate(OF_FURTHER_ROUND.items()):
        own_seed = seed * 1_000 + 200 + 10 * round + place
        made = prompts(world, seed=own_seed, count=count, split=split)  # pyright: ignore[reportArgumentType]
        found += [prompt for prompt in made if prompt.text not in seen]
        seen |= {prompt.text for prompt in made}
    return found


def write_pretraining_text(folder: Path, world: World, *, seed: int) -> None:
    """Write documents that the base models have not seen: the same world, another part of its web."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in PRETRAINING_DOCUMENTS.items():
        rows = ({"text": text} for text in documents(world, seed=seed * 1_000 + 100 + _SEEDS[split], count=count))
        write_jsonl(folder / f"{split}.jsonl", rows)


def miniature_project(folder: Path, *, seed: int | None) -> Project:
    """Open the miniature's project in ``folder``, or create it. The first stage of align makes its data.

    Raises ConfigError if the folder holds a miniature with another seed.
    """
    if (folder / "heedful.toml").is_file():
        project = Project.load(folder)
        if seed is not None and seed != project.seed:
            raise ConfigError(
                "the miniature in this folder has another seed",
                expected=f"seed {project.seed}",
                got=f"seed {seed}",
                where=folder,
                next_step="run in another folder, or move this one away",
            )
        return project
    text = f"""\
# The built-in miniature: everything in data/ is made up by the simulation, and so are the labelers.

[project]
name = "miniature"
base_model = {json.dumps(str(base_model_folder("medium")))}
small_model = {json.dumps(str(base_model_folder("small")))}
labelers = "simulated"
preset = "miniature"
seed = {seed or 0}
processes = 2
"""
    for name in ("data", "runs", "tasks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "heedful.toml", text)
    return Project.load(folder)


WEIGHTS = Path(__file__).parent / "weights"


def base_model_folder(size: str) -> Path:
    """Return the folder of a size's shipped weights. Raises UserError for a size that is not shipped."""
    folder = WEIGHTS / size
    if not (folder / "config.json").is_file():
        shipped = sorted(path.parent.name for path in WEIGHTS.glob("*/config.json"))
        raise UserError(
            f"the miniature's {size} base model does not ship with the package",
            expected=f"one of {', '.join(shipped) or 'none'}",
            got=size,
            next_step=f"make it: python -m heedful.miniature.base --output FOLDER {size}",
        )
    return folder
