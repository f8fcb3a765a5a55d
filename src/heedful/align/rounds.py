"""Further rounds of feedback (SPEC 3.8): their rows of the table of stages, and what is kept of rounds that are over. No torch.

Round 1 is the table of :mod:`heedful.align.stages`. A round that has ended leaves ``runs/round-<n>.json``: which runs it
consists of, which policy is the current one after it, and which records it knew. The next round starts from that, so data that
arrive later do not make the earlier round do its work again. Each file names what the round before ended with: if that is done
again, the later rounds no longer count.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from heedful.align.stages import Asked, Stage
from heedful.errors import ConfigError, DataError
from heedful.evaluate.results import Round
from heedful.presets import RoundsConfig
from heedful.project.data_folder import Records
from heedful.project.files import write_atomically
from heedful.project.runs import stage_folders, stage_state

KNOWN_FILE = "known.json"
RULE_FILE = "rule.json"
EXPECTED_FILE = "expected.jsonl"
"""For each held-out prompt, what simulated labelers think of two policies in closed form."""
BENCHMARKS_FILE = "benchmarks.json"
"""Both policies' scores."""
DECISION_FILE = "decision.json"
RULE = ("confidence", "largest_drop")
"""The fields of ``[rounds]`` that decide whether a policy is accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Ids of the records that a round began with (round 1: that it ended with). What arrives later is for the next round."""

    prompts: frozenset[str]
    demonstrations: frozenset[str]
    rankings: frozenset[str] = frozenset()
    """Not kept of rounds that are over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished run of a stage."""

    folder: Path
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRound:
    """A round that is over."""

    number: int
    runs: Mapping[str, Run]
    """Of all stages of this round, by name."""
    policy: str
    """The stage that made the policy which is the current one after this round."""
    known: Known
    began_with: str | None
    """The fingerprint that the round before ended with; None for round 1."""

    @property
    def ended_with(self) -> str:
        """The fingerprint of its last stage."""
        return list(self.runs.values())[-1].fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A further round that is being done."""

    number: int
    earlier: tuple[EndedRound, ...]
    """All rounds before it."""

    @property
    def runs(self) -> dict[str, Run]:
        """All runs of the rounds before it, by stage."""
        return {name: run for ended in self.earlier for name, run in ended.runs.items()}

    @property
    def current(self) -> str:
        """The stage that made the policy to beat."""
        return self.earlier[-1].policy

    @property
    def before(self) -> Known:
        """What the last round knew."""
        return self.earlier[-1].known


def known_in(records: Records) -> Known:
    """The ids of records."""
    return Known(
        prompts=frozenset(records.prompts),
        demonstrations=frozenset(records.demonstrations),
        rankings=frozenset(records.rankings),
    )


def read_known(folder: Path) -> Known:
    """What the first stage of a round wrote down."""
    found = json.loads((folder / KNOWN_FILE).read_text(encoding="utf-8"))
    return Known(**{kind: frozenset(found[kind]) for kind in ("prompts", "demonstrations", "rankings")})


def known_as_json(known: Known) -> dict[str, list[str]]:
    """In the alphabet's order, so that the same records give the same file."""
    return {kind: sorted(ids) for kind, ids in asdict(known).items()}


# ---------------------------------------------------------------------------------------------------- rounds on the disk


def ended_rounds(runs: Path) -> list[EndedRound]:
    """The rounds that are over, from the first on; a round counts only if it began with what the one before ended with."""
    found: list[EndedRound] = []
    while (ended := _read(runs, len(found) + 1)) is not None:
        if ended.began_with != (found[-1].ended_with if found else None):
            break
        found.append(ended)
    return found


def newest_round(runs: Path) -> int:
    """The number of the newest round that was begun."""
    ended = ended_rounds(runs)
    if not ended:
        return 1
    begun = stage_folders(runs, first_stage(len(ended) + 1)).values()
    states = (stage_state(folder) for folder in begun)
    is_begun = any(state.get("inputs", {}).get("previous") == ended[-1].ended_with for state in states)
    return len(ended) + 1 if is_begun else len(ended)


def rounds_to_do(runs: Path, wanted: int | None) -> range:
    """The numbers of the rounds that `heedful align` walks through, in order; ``wanted`` is the last one (None: the newest).

    A round that is over is walked through again only if it is the last one. Raises ConfigError for a number below 1.
    """
    if wanted is not None and wanted < 1:
        raise ConfigError("there is no such round", expected="1 or more", got=str(wanted))
    last = newest_round(runs) if wanted is None else wanted
    return range(min(len(ended_rounds(runs)) + 1, last), last + 1)


def save_round(runs: Path, ended: EndedRound) -> None:
    """Write down that a round is over. Raises StorageError."""
    value = {
        "round": ended.number,
        "began_with": ended.began_with,
        "policy": ended.policy,
        "runs": {name: [run.folder.name, run.fingerprint] for name, run in ended.runs.items()},
        "known": known_as_json(replace(ended.known, rankings=frozenset())),
    }
    write_atomically(_file(runs, ended.number), json.dumps(value, indent=1) + "\n")


def decisions(runs: Path) -> list[Round]:
    """What the further rounds that are over have decided, as results.json has it."""
    return [decision_in(ended.runs[f"decide_{ended.number}"].folder) for ended in ended_rounds(runs)[1:]]


def decision_in(folder: Path) -> Round:
    """What the last stage of a round wrote."""
    return json.loads((folder / DECISION_FILE).read_text(encoding="utf-8"))


def current_policy(runs: Path) -> tuple[str, Path] | None:
    """Name and model's folder of the policy that the last finished round left as the current one."""
    ended = ended_rounds(runs)
    if not ended:
        return None
    name = ended[-1].policy
    return name, next(one.runs[name].folder for one in reversed(ended) if name in one.runs) / "model"


def _file(runs: Path, number: int) -> Path:
    return runs / f"round-{number}.json"


def _read(runs: Path, number: int) -> EndedRound | None:
    file = _file(runs, number)
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        named = {
            name: Run(folder=runs / folder, fingerprint=fingerprint) for name, (folder, fingerprint) in found["runs"].items()
        }
        return EndedRound(
            number=found["round"],
            runs=named,
            policy=found["policy"],
            known=Known(**{kind: frozenset(ids) for kind, ids in found["known"].items()}),
            began_with=found["began_with"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            "the file about a finished round is damaged",
            expected="what `heedful align` wrote when the round ended",
            got=f"{type(error).__name__}: {error}",
            where=file,
            next_step=f"restore it from a copy, or remove it and run `heedful align --round {number}`, which writes it again",
        ) from None


# ---------------------------------------------------------------------------------------------------- rows of the table


def first_stage(number: int) -> str:
    """The stage that a further round begins with."""
    return f"prompts_{number}"


def rows_of_round(opened: Opened, config: RoundsConfig, *, with_text: bool, new_demonstrations: bool) -> tuple[Stage, ...]:
    """The table of a further round.

    with_text: PPO mixes pretraining gradients in. new_demonstrations: there are some that the rounds before did not have.
    """
    n, known, current = opened.number, first_stage(opened.number), opened.current
    members = [f"member_{n}_{i}" for i in range(1, config.ensemble + 1)] if config.choose == "disagreement" else []
    again = [f"initial_policy_{n}"] if config.policy == "anew" and new_demonstrations else []
    initial = current if config.policy == "onwards" else (again or ["initial_policy"])[0]
    reward: dict[str, str | None] = {"sft": "sft", "start": "reward_start", "known": known}
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
        )
    )
    rows += [
        Stage(
            name=name,
            needs={"base": "base_model", "known": known, "text": "pretraining_text"},
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
            needs={"known": known, "initial": initial, "reward": f"reward_{n}", "text": text},
            config="ppo",
        )
    )
    rows.append(
        Stage(
            name=f"compare_{n}",
            needs={"known": known, "policy": f"policy_{n}", "current": current},
            config="evaluate",
            asks="evaluation by people",
            apart=False,
        )
    )
    rows.append(Stage(name=f"decide_{n}", needs={"known": known, "compare": f"compare_{n}", "answers": "answers"}, apart=False))
    return tuple(replace(row, round=n) for row in rows)


def asking_stages(runs: Path) -> list[Stage]:
    """The rows of further rounds that ask people, of all rounds that have asked: enough of each to know what it asked."""
    return [
        Stage(name=f"{name}_{number}", needs={}, asks=asks, round=number)
        for number in range(2, newest_round(runs) + 1)
        for name, asks in _ASKING.items()
    ]


_ASKING: Mapping[str, Asked] = {"collect": "rankings", "compare": "evaluation by people"}
