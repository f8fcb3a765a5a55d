"""The two directions of lineage: what a model was made from, and what was made from a record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from heedful.errors import HeedfulError
from heedful.lineage.known_records import KnownRecords, known_records
from heedful.lineage.retraining import ASKING
from heedful.lineage.run_graph import OTHERS, RunNode, ancestors, descendants, every_run, ids_in_run, runs_of
from heedful.lineage.use_record import UNKNOWN_VERSION, UseRecord, labels_given
from heedful.project.data_folder import Kind, Records
from heedful.project.project import Project
from heedful.project.runs import with_records
from heedful.project.selection import (
    demonstrations_of,
    digest_of_demonstrations,
    digest_of_rankings,
    training_rankings,
)
from heedful.records import Demonstration, Ranking, Split

LINEAGE = "lineage.json"
"""In the folder of a released model: its :func:`model_lineage`."""


def model_lineage(project: Project, name: str, runs: Mapping[str, RunNode] | None = None) -> dict[str, Any]:
    """Everything that a run builds on, as a JSON object: runs in order, data, labelers, instructions and code.

    name: the run's folder name. Raises DataError for a broken file.
    """
    runs = runs_of(project.runs) if runs is None else runs
    known = known_records(project)
    chain = [runs[one] for one in ancestors(runs, name)]
    uses = {run.name: run.use or _use_by_digests(project, run) for run in chain}
    given = [use for use in uses.values() if use is not None]
    unknown = [f"{run.name}: which records it was given (a run of an older version)" for run in chain if uses[run.name] is None]
    labels = {
        kind: {id for use in given for id in use.records.get(kind, ())} for kind in ("prompts", "demonstrations", "rankings")
    }
    return {
        "project": project.name,
        "model": name,
        "runs": [_run_row(run, uses[run.name]) for run in chain],
        "data": {kind: _counts(kind.removesuffix("s"), ids, known) for kind, ids in labels.items()},
        "labelers": _labelers(given, chain, labels, known),
        "instructions": _instructions(labels, known, given),
        "code": _code(given),
        "unknown": unknown,
    }


def published(lineage: Mapping[str, Any]) -> dict[str, Any]:
    """A lineage for publication: it keeps only the last part of paths on this machine."""
    runs: list[dict[str, Any]] = []
    for row in lineage["runs"]:
        inputs = {what: {**given, "path": PurePath(given["path"]).name} for what, given in row.get("inputs", {}).items()}
        runs.append({**row, "inputs": inputs} if inputs else dict(row))
    return {**lineage, "runs": runs}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordUse:
    """What used some records."""

    ids: frozenset[str]
    """The records that were searched for."""
    given_to: tuple[str, ...]
    """Runs that were given one of them, or hold one."""
    doubtful: tuple[str, ...]
    """Runs of older versions, which do not say what they were given."""
    built_on: tuple[str, ...]
    """Runs that build on those."""
    models: tuple[str, ...]
    """Runs with a model that may have learned from the records."""


def use_of(project: Project, ids: Collection[str], runs: Mapping[str, RunNode] | None = None) -> RecordUse:
    """Which runs and models used records. runs: None for all of the project's. Raises DataError for a broken file."""
    runs = every_run(project) if runs is None else runs
    wanted = set(ids)
    given_to: list[str] = []
    doubtful: list[str] = []
    for run in runs.values() if wanted else ():
        named, known = ids_of_run(project, run)
        if wanted & named:
            given_to.append(run.name)
        elif not known:
            doubtful.append(run.name)
    built_on = descendants(runs, [*given_to, *doubtful])
    touched = {*given_to, *doubtful, *built_on}
    return RecordUse(
        ids=frozenset(wanted),
        given_to=tuple(given_to),
        doubtful=tuple(doubtful),
        built_on=tuple(built_on),
        models=tuple(run.name for run in runs.values() if run.name in touched and run.has_model),
    )


def ids_of_run(project: Project, run: RunNode) -> tuple[set[str], bool]:
    """Ids of the records that a run was given or holds, and whether it is known what it was given."""
    use = run.use or _use_by_digests(project, run)
    named = {id for kind in use.records.values() for id in kind} if use else set[str]()
    return named | ids_in_run(run), use is not None


# ---------------------------------------------------------------------------------------------------- runs of older versions


def _use_by_digests(project: Project, run: RunNode) -> UseRecord | None:
    """What an older run was given, if the project's records still have the digests in its fingerprint."""
    if run.use is not None or run.stage not in ("sft", "initial_policy", "initial_policy_small", "reward"):
        return run.use
    for records in _states_of_records(project):
        labels = _labels_by_digest(run, records)
        if labels:
            break
    else:
        return None
    kind = "demonstrations" if isinstance(labels[0], Demonstration) else "rankings"
    return UseRecord(
        heedful="",
        sources="",
        records={"prompts": list(dict.fromkeys(one.prompt_id for one in labels)), kind: [one.id for one in labels]},
        **labels_given(labels),
    )


def _states_of_records(project: Project) -> Iterator[Records]:
    """The records of the data folder, then the same with the answers that the runs collected."""
    try:
        records = Records.load(project.data)
        yield records
        for run in runs_of(project.runs).values():
            records = with_records(records, run.folder / OTHERS, ("prompt", "response"))
            if run.stage.startswith(ASKING):
                kinds: tuple[Kind, ...] = ("response", "ranking") if (run.folder / "rankings.jsonl").is_file() else ()
                records = with_records(records, run.folder, (*kinds, "demonstration"))
        yield records
    except HeedfulError:  # a broken or missing file: its digest cannot be reproduced
        return


def _labels_by_digest(run: RunNode, records: Records) -> list[Demonstration | Ranking]:
    splits: tuple[Split, ...] = ("train", "valid")
    if run.inputs.get("data") == digest_of_demonstrations(records):
        return [label for split in splits for label in demonstrations_of(records, split)]
    if run.inputs.get("rankings") == digest_of_rankings(records):
        return [label for split in splits for label in training_rankings(records, split)]
    return []


# ---------------------------------------------------------------------------------------------------- a model's lineage


def _run_row(run: RunNode, use: UseRecord | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "run": run.name,
        "stage": run.stage,
        "done": run.done,
        "ended": run.ended,
        "fingerprint": run.fingerprint,
        "parents": list(run.parents),
        "config": run.config,
    }
    if run.to_retrain:
        row["to_retrain"] = True
    if use is None:
        return row
    row["records"] = {kind: len(ids) for kind, ids in use.records.items()}
    if use.heedful:
        row |= {
            "heedful": use.heedful,
            "sources": use.sources,
            "commit": use.commit,
            "template": use.template,
            "inputs": use.inputs,
            "used_as": use.parents,
        }
    return row


def _counts(kind: str, ids: Iterable[str], known: KnownRecords) -> dict[str, Any]:
    """How many records, by split, source, time of import and (prompts) use case and language; how many are gone."""
    rows = known.by_kind[kind]
    prompts = known.by_kind["prompt"]
    by: dict[str, Counter[str]] = {"split": Counter(), "source": Counter(), "imported": Counter()}
    if kind == "prompt":
        by |= {"use_case": Counter(), "language": Counter()}
    gone = 0
    for id in ids:
        row = rows.get(id)
        if row is None:
            gone += 1
            continue
        prompt = row if kind == "prompt" else prompts.get(row.get("prompt_id", ""), {})
        by["split"][str(prompt.get("split", "train"))] += 1
        by["source"][str(prompt.get("source", "imported")) if kind == "prompt" else label_source(row)] += 1
        if "imported" in row.get("metadata", {}):
            by["imported"][str(row["metadata"]["imported"])] += 1
        for key in ("use_case", "language"):
            if key in by:
                by[key][str(row.get(key) or "unknown")] += 1
    count = sum(by["split"].values()) + gone
    counted = {f"by_{key}": dict(sorted(values.items())) for key, values in by.items() if values}
    return {"count": count, **({"no_longer_there": gone} if gone else {}), **counted}


def label_source(row: Mapping[str, Any]) -> str:
    """Where a label came from."""
    metadata = row.get("metadata", {})
    if metadata.get("simulated"):
        return "simulated labelers"
    if metadata.get("source") == "playground":
        return "playground"
    return "labeling database" if "task_id" in metadata else "a file"


def _labelers(
    uses: Iterable[UseRecord], chain: Iterable[RunNode], labels: Mapping[str, set[str]], known: KnownRecords
) -> dict[str, dict[str, Any]]:
    """Pseudonym -> labels of each kind, and the group; each label counts once, however many runs used it."""
    found: dict[str, Counter[str]] = {}
    groups: dict[str, str] = {}
    for kind, word in (("demonstration", "demonstrations"), ("ranking", "rankings")):
        for id in labels[word]:
            row = known.by_kind[kind].get(id)
            if row is not None:
                name = str(row.get("labeler"))
                found.setdefault(name, Counter())[word] += 1
                if group := row.get("metadata", {}).get("group"):
                    groups[name] = str(group)
    for use in uses:  # labels that are no longer there
        for name in use.labelers:
            found.setdefault(name, Counter())
    return {
        name: {**dict(sorted(found[name].items())), **({"group": groups[name]} if name in groups else {})}
        for name in sorted(found)
    }


def _instructions(labels: Mapping[str, set[str]], known: KnownRecords, uses: Iterable[UseRecord]) -> dict[str, dict[str, int]]:
    """Kind of task -> version of the instructions -> labels."""
    found: dict[str, Counter[str]] = {}
    for kind, word, asked in (("demonstration", "demonstrations", "demonstrate"), ("ranking", "rankings", "rank")):
        for id in labels[word]:
            row = known.by_kind[kind].get(id)
            if row is not None:
                version = row.get("metadata", {}).get("instruction_version") or UNKNOWN_VERSION
                found.setdefault(asked, Counter())[str(version)] += 1
    for use in uses:  # versions of labels that are no longer there
        for asked, versions in use.instructions.items():
            for version in versions:
                found.setdefault(asked, Counter()).setdefault(version, 0)
    return {asked: dict(sorted(found[asked].items())) for asked in sorted(found)}


def _code(uses: Iterable[UseRecord]) -> list[dict[str, Any]]:
    """The versions of the code that made the runs."""
    found = {(use.heedful, use.sources, use.commit): None for use in uses if use.heedful}
    return [{"heedful": version, "sources": sources, "commit": commit} for version, sources, commit in found]
