"""The models that an evaluation compares: their names in files, their names for people, and their order on every page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Contender:
    """A model in the evaluation."""

    name: str
    """In results.json and in records of responses. A smaller sibling's name ends in ``_small``."""
    label: str
    """On pages; its size stands beside it."""


BASE = Contender("base", "Base")
PROMPTED_BASE = Contender("prompted_base", "Base, prompted")
TASK_MIXTURE = Contender("task_mixture", "Task mixture")
SFT = Contender("sft", "SFT")
PPO = Contender("ppo", "PPO")
PPO_PTX = Contender("ppo_ptx", "PPO-ptx")
BASE_SMALL = Contender("base_small", BASE.label)
PPO_PTX_SMALL = Contender("ppo_ptx_small", PPO_PTX.label)

DPO = Contender("dpo", "DPO")
EXPERT_ITERATION = Contender("expert_iteration", "Expert iteration")
CLONING = Contender("cloning", "Cloning of preferred responses")
BEST_OF_N = Contender("best_of_n", "SFT, best of n")

ALTERNATIVES = (DPO, EXPERT_ITERATION, CLONING, BEST_OF_N)
"""Trained on the same data if heedful.toml names them in [alternatives] (SPEC 7)."""
CONTENDERS = (BASE, PROMPTED_BASE, TASK_MIXTURE, SFT, PPO, PPO_PTX, BASE_SMALL, PPO_PTX_SMALL, *ALTERNATIVES)
"""In the order in which they answer."""
FAMILIES = tuple(c.name for c in CONTENDERS if c not in ALTERNATIVES and not c.name.endswith("_small"))
"""The order on pages; a smaller sibling follows the larger one."""
BASELINE = SFT
"""Win rates are against this one (SPEC 4.1)."""
DUELS = (
    (PPO_PTX, BASE),
    (PPO_PTX, PROMPTED_BASE),
    (PPO_PTX, TASK_MIXTURE),
    (PPO_PTX, PPO),
    (PPO_PTX_SMALL, BASE),
    (PPO_PTX_SMALL, BASE_SMALL),
)
"""Pairs compared directly, besides each model with the baseline."""


def family(name: str) -> str:
    """Return the larger sibling's name: ``ppo_ptx_small`` belongs to the family ``ppo_ptx``."""
    found = [known for known in FAMILIES if name == known or name.startswith(known + "_")]
    return max(found, key=len, default=name)
