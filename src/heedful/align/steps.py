"""Which function does each stage of the table, and which makes the tasks of stages that ask people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from heedful.align import (
    alternatives,
    choose,
    collect,
    group_reward,
    judge,
    refusal_stages,
    round_benchmarks,
    round_steps,
    task_mixture,
    train_stages,
)
from heedful.align.round_decision import decide
from heedful.align.settings import Given
from heedful.align.stages import Stage
from heedful.labeling.exchange.asking import Task

STEPS: Mapping[str, Callable[..., None]] = {
    "data": collect.data,
    "demonstrate": collect.demonstrate,
    "sft": train_stages.sft,
    "collect": collect.collect,
    "refusal_comparisons": refusal_stages.compare,
    "reward": train_stages.reward,
    "reward_by_group": group_reward.reward_by_group,
    "choose_sft": choose.choose_sft,
    "choose_prefix": choose.choose_prefix,
    "task_mixture": task_mixture.task_mixture,
    "choose_task_mixture": choose.choose_sft,
    "initial_policy": train_stages.initial_policy,
    "initial_policy_small": train_stages.initial_policy,
    "ppo": train_stages.ppo,
    "ppo_ptx": train_stages.ppo,
    "ppo_ptx_small": train_stages.ppo,
    "dpo": alternatives.dpo,
    "expert_iteration": alternatives.expert_iteration,
    "cloning": alternatives.cloning,
    "best_of_n": alternatives.best_of_n,
    "refusal_check": refusal_stages.check,
    "evaluate": judge.evaluate,
}
"""Name of a stage -> ``step(given, folder=..., console=...)``."""

TASKS: Mapping[str, Callable[[Given, Path], Iterator[Task]]] = {
    "demonstrate": collect.demonstration_tasks,
    "collect": collect.ranking_tasks,
    "evaluate": judge.evaluation_tasks,
}
"""Name of a stage that asks people -> the function that makes tasks from its folder."""

ROUND_STEPS: Mapping[str, Callable[..., None]] = {
    "prompts": round_steps.begin,
    "member": train_stages.reward,
    "collect": round_steps.collect_again,
    "initial_policy": train_stages.initial_policy,
    "reward": train_stages.reward,
    "policy": train_stages.ppo,
    "benchmarks": round_benchmarks.measure,
    "compare": round_steps.compare,
    "decide": decide,
}
"""The same for stages of further rounds, by their name without the round's number."""

ROUND_TASKS: Mapping[str, Callable[[Given, Path], Iterator[Task]]] = {
    "collect": collect.ranking_tasks,
    "compare": judge.evaluation_tasks,
}


def step_of(row: Stage) -> Callable[..., None]:
    """The function that does a stage."""
    return STEPS[row.name] if row.round == 1 else ROUND_STEPS[_without_number(row)]


def tasks_of(row: Stage) -> Callable[[Given, Path], Iterator[Task]]:
    """The function that makes the tasks for people."""
    return TASKS[row.name] if row.round == 1 else ROUND_TASKS[_without_number(row)]


def _without_number(row: Stage) -> str:
    return row.name.partition(f"_{row.round}")[0]
