"""What each stage of the table does, and what the stages that ask people ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from heedful.align import choose, collect, judge, train_stages
from heedful.align.settings import Given
from heedful.labeling.exchange.asking import Task

STEPS: Mapping[str, Callable[..., None]] = {
    "data": collect.data,
    "demonstrate": collect.demonstrate,
    "sft": train_stages.sft,
    "collect": collect.collect,
    "reward": train_stages.reward,
    "choose_sft": choose.choose_sft,
    "choose_prefix": choose.choose_prefix,
    "initial_policy": train_stages.initial_policy,
    "initial_policy_small": train_stages.initial_policy,
    "ppo": train_stages.ppo,
    "ppo_ptx": train_stages.ppo,
    "ppo_ptx_small": train_stages.ppo,
    "evaluate": judge.evaluate,
}
"""Name of a stage -> ``step(given, folder=..., console=...)``."""

TASKS: Mapping[str, Callable[[Given, Path], Iterator[Task]]] = {
    "demonstrate": collect.demonstration_tasks,
    "collect": collect.ranking_tasks,
    "evaluate": judge.evaluation_tasks,
}
"""Name of a stage that asks people -> the tasks that its folder holds."""
