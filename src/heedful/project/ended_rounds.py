"""Finished rounds of feedback (SPEC 3.8), as stored on disk.

A finished round leaves ``runs/round-<n>.json``. The file lists the round's runs, the policy that is current after it, and the
records that it knew. The next round starts from that, so data that arrive later do not make the earlier round run again. The
file also names the fingerprint that the round before ended with: if that round runs again, the later rounds no longer count.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from heedful.errors import ConfigError, DataError
from heedful.project.data_folder import Records
from heedful.project.files import write_atomically
from heedful.project.runs import newest_done, stage_folders, stage_state

POLICIES = ("ppo_ptx", "ppo")
"""Round 1's policies: the first of them that there is becomes current."""
KNOWN_FILE = "known.json"
"""In the folder of a round's first stage: the ids of the records that the round began with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Ids of the records that a round began with (round 1: that it ended with). What arrives later is for the next round."""

    prompts: frozenset[str]
    demonstrations: frozenset[str]
    rankings: frozenset[str] = frozenset()
    """Not kept for finished rounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished run of a stage."""

    folder: Path
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRound:
    """A finished round."""

    number: int
    runs: Mapping[str, Run]
    """Of all stages of this round, by name."""
    policy: str
    """The stage that made the policy that is current after this round."""
    known: Known
    began_with: str | None
    """The fingerprint that the round before ended with; None for round 1."""

    @property
    def ended_with(self) -> str:
        """The fingerprint of its last stage."""
        return list(self.runs.values())[-1].fingerprint


def known_in(records: Records) -> Known:
    """The ids of records."""
    return Known(
        prompts=frozenset(records.prompts),
        demonstrations=frozenset(records.demonstrations),
        rankings=frozenset(records.rankings),
    )


def read_known(folder: Path) -> Known:
    """The ids that the first stage of a round wrote."""
    found = json.loads((folder / KNOWN_FILE).read_text(encoding="utf-8"))
    return Known(**{kind: frozenset(found[kind]) for kind in ("prompts", "demonstrations", "rankings")})


def known_as_json(known: Known) -> dict[str, list[str]]:
    """The ids as JSON, sorted, so that the same records give the same file."""
    return {kind: sorted(ids) for kind, ids in asdict(known).items()}


def ended_rounds(runs: Path) -> list[EndedRound]:
    """The finished rounds, in order. A round counts only if it began with what the round before ended with."""
    found: list[EndedRound] = []
    while (ended := _read(runs, len(found) + 1)) is not None:
        if ended.began_with != (found[-1].ended_with if found else None):
            break
        found.append(ended)
    return found


def newest_round(runs: Path) -> int:
    """The number of the newest round that has begun."""
    ended = ended_rounds(runs)
    if not ended:
        return 1
    begun = stage_folders(runs, first_stage(len(ended) + 1)).values()
    states = (stage_state(folder) for folder in begun)
    is_begun = any(state.get("inputs", {}).get("previous") == ended[-1].ended_with for state in states)
    return len(ended) + 1 if is_begun else len(ended)


def rounds_to_do(runs: Path, wanted: int | None) -> range:
    """The numbers of the rounds that `heedful align` walks through, in order; ``wanted`` is the last one (None: the newest).

    A finished round is walked through again only if it is the last one. Raises ConfigError for a number below 1.
    """
    if wanted is not None and wanted < 1:
        raise ConfigError("there is no such round", expected="1 or more", got=str(wanted))
    last = newest_round(runs) if wanted is None else wanted
    return range(min(len(ended_rounds(runs)) + 1, last), last + 1)


def save_round(runs: Path, ended: EndedRound) -> None:
    """Record on disk that a round is finished. Raises StorageError."""
    value = {
        "round": ended.number,
        "began_with": ended.began_with,
        "policy": ended.policy,
        "runs": {name: [run.folder.name, run.fingerprint] for name, run in ended.runs.items()},
        "known": known_as_json(replace(ended.known, rankings=frozenset())),
    }
    write_atomically(_file(runs, ended.number), json.dumps(value, indent=1) + "\n")


def current_policy(runs: Path) -> tuple[str, Path] | None:
    """Name and model folder of the policy that is current after the last finished round; None before round 1 has ended."""
    ended = ended_rounds(runs)
    if not ended:
        return None
    name = ended[-1].policy
    return name, next(one.runs[name].folder for one in reversed(ended) if name in one.runs) / "model"


def newest_policy(runs: Path) -> Path | None:
    """The folder of the current policy's run: after round 1 the one that was accepted, before its end PPO-ptx or PPO."""
    current = current_policy(runs)
    if current is not None:
        return current[1].parent
    return next((run for name in POLICIES if (run := newest_done(runs, name)) is not None), None)


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


def first_stage(number: int) -> str:
    """The stage that round ``number`` (2 or later) begins with."""
    return f"prompts_{number}"
