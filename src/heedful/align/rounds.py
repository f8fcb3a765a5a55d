"""Further rounds of feedback (SPEC 3.8): their rows in the table of stages, and their decisions.

Round 1 is the table of :mod:`heedful.align.stages`. What a round leaves on disk is in :mod:`heedful.project.ended_rounds`. This
module does not import torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from heedful.align.stages import Asked, Stage
from heedful.evaluate.results import Round
from heedful.presets import RoundsConfig
from heedful.project.ended_rounds import EndedRound, Known, Run, ended_rounds, first_stage, newest_round

RULE_FILE = "rule.json"
EXPECTED_FILE = "expected.jsonl"
"""For each held-out prompt, simulated labelers' expected preference between the two policies, in closed form."""
BENCHMARKS_FILE = "benchmarks.json"
"""Scores of both policies."""
DECISION_FILE = "decision.json"
RULE = ("confidence", "largest_drop")
"""The fields of ``[rounds]`` that decide whether a policy is accepted."""
BEYOND_CHANCE = "beyond_chance"
"""In the rule: whether only those drops count whose interval is above 0. An earlier version counted all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A further round in progress."""

    number: int
    earlier: tuple[EndedRound, ...]
    """All rounds before it."""

    @property
    def runs(self) -> dict[str, Run]:
        """All runs of the rounds before it, by stage."""
        return {name: run for ended in self.earlier for name, run in ended.runs.items()}

    @property
    def current(self) -> str:
        """The stage that made the current policy, which the new one has to beat."""
        return self.earlier[-1].policy

    @property
    def before(self) -> Known:
        """The records that the last round knew."""
        return self.earlier[-1].known


def rows_of_round(opened: Opened, config: RoundsConfig, *, with_text: bool, new_demonstrations: bool) -> tuple[Stage, ...]:
    """The table of a further round.

    with_text: whether PPO mixes in pretraining gradients. new_demonstrations: whether there are demonstrations that the earlier
    rounds did not have.
    """
    n, known, current = opened.number, first_stage(opened.number), opened.current
    members = [f"member_{n}_{i}" for i in range(1, config.ensemble + 1)] if config.choose == "disagreement" else []
    again = [f"initial_policy_{n}"] if config.policy == "fresh" and new_demonstrations else []
    trained = [name for name in opened.runs if name.startswith("initial_policy_") and name != "initial_policy_small"]
    initial = current if config.policy == "onwards" else ["initial_policy", *trained, *again][-1]
    refusals: dict[str, str | None] = {"refusals": "refusals"}
    compared = {**refusals, "compared": "refusal_comparisons"}
    reward: dict[str, str | None] = {"sft": "sft", "start": "reward_start", "known": known, **compared}
    rows = [Stage(name=known, needs={"previous": list(opened.earlier[-1].runs)[-1]}, reads_rankings=True, apart=False)]
    rows += [
        Stage(
            name=name,
            needs=reward,
            config="reward",
            beside=members[0] if i > 1 else None,
            reads_rankings=True,
            more_seed=i,
        )
        for i, name in enumerate(members, start=1)
    ]
    rows.append(
        Stage(
            name=f"collect_{n}",
            needs={"known": known, "sft": "sft", "policy": current, "choosing": "choosing", **{name: name for name in members}},
            config="collect",
            asks="rankings",
            reads_rankings=True,
            apart=False,
        )
    )
    rows += [
        Stage(
            name=name,
            needs={"base": "base_model", "known": known, "text": "pretraining_text", **refusals},
            config="initial_policy",
            beside=f"collect_{n}",
        )
        for name in again
    ]
    rows.append(Stage(name=f"reward_{n}", needs={**reward, "rankings": "rankings"}, config="reward"))
    text = "pretraining_text" if with_text else None
    rows.append(
        Stage(
            name=f"policy_{n}",
            needs={"known": known, "initial": initial, "reward": f"reward_{n}", "text": text, **refusals},
            config="ppo",
        )
    )
    measured: dict[str, str | None] = {}
    if config.benchmarks:
        measured = {"benchmarks": f"benchmarks_{n}"}
        needs = {"known": known, "policy": f"policy_{n}", "current": current, "benchmarks": "rule_benchmarks"}
        rows.append(Stage(name=f"benchmarks_{n}", needs=needs, apart=False))
    rows.append(
        Stage(
            name=f"compare_{n}",
            needs={"known": known, "policy": f"policy_{n}", "current": current},
            config="evaluate",
            asks="evaluation by people",
            apart=False,
        )
    )
    needs = {"known": known, "compare": f"compare_{n}", "answers": "answers", **measured}
    rows.append(Stage(name=f"decide_{n}", needs=needs, apart=False))
    return tuple(replace(row, round=n) for row in rows)


def with_rule(config: RoundsConfig, begun: Path | None) -> RoundsConfig:
    """The settings of a round. If it has begun (in the folder ``begun``), the benchmarks are those in its rule."""
    if begun is None:
        return config
    return replace(config, benchmarks=rule_in(begun).get("benchmarks", {}))


def rule_in(begun: Path) -> dict[str, Any]:
    """The rule that a round wrote down when it began: settings named in ``RULE``, ``BEYOND_CHANCE``, ``benchmarks`` if any."""
    return json.loads((begun / RULE_FILE).read_text(encoding="utf-8"))


def asking_stages(runs: Path) -> list[Stage]:
    """The rows of all begun further rounds that ask people, with only those fields that say what they asked."""
    return [
        Stage(name=f"{name}_{number}", needs={}, asks=asks, round=number)
        for number in range(2, newest_round(runs) + 1)
        for name, asks in _ASKING.items()
    ]


_ASKING: Mapping[str, Asked] = {"collect": "rankings", "compare": "evaluation by people"}


def decisions(runs: Path) -> list[Round]:
    """The decisions of the finished further rounds, as in results.json."""
    return [decision_in(ended.runs[f"decide_{ended.number}"].folder) for ended in ended_rounds(runs)[1:]]


def decision_in(folder: Path) -> Round:
    """The decision that the last stage of a round wrote."""
    return json.loads((folder / DECISION_FILE).read_text(encoding="utf-8"))
