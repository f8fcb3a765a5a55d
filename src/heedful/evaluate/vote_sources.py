"""Reads votes from a table, from a file of our records, or from a project with its labeling database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from heedful.errors import ConfigError, DataError, MissingError
from heedful.evaluate.foreign_tables import table_rows
from heedful.evaluate.votes import BadVote, Votes, votes_from_rankings, votes_from_ratings, votes_from_table
from heedful.labeling.database.locating import database_of, existing
from heedful.labeling.exchange.asking import stored_responses
from heedful.labeling.exchange.labels import stored_rankings, stored_ratings
from heedful.project.data_folder import Kind, Records, file_name, record_from_json
from heedful.project.files import read_jsonl
from heedful.project.project import CONFIG_FILE, Project
from heedful.records import Phase, Ranking, Rating, Response

Answers = Literal["rankings", "ratings"]

_ROWS_LOOKED_AT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which answers count as votes."""

    answers: Answers | None = None
    """None: rankings, or ratings if there is no ranking."""
    phase: Phase = "evaluation"
    group: str | None = None
    """Only of labelers of this group."""
    batch: str | None = None
    """Only of this batch of tasks."""

    def takes(self, answer: Ranking | Rating) -> bool:
        """Return whether this answer counts."""
        return (
            answer.phase == self.phase
            and self.group in (None, answer.metadata.get("group"))
            and self.batch in (None, answer.metadata.get("batch"))
        )


@dataclass(slots=True, kw_only=True)
class _Found:
    """Records by id, from one or more places; the same id from two places is one record."""

    rankings: dict[str, Ranking] = field(default_factory=dict[str, Ranking])
    ratings: dict[str, Rating] = field(default_factory=dict[str, Rating])
    responses: dict[str, Response] = field(default_factory=dict[str, Response])
    bad: list[BadVote] = field(default_factory=list[BadVote])


def votes_of_file(path: Path, selection: Selection, named: Mapping[str, str]) -> Votes:
    """Read votes from a table, or from a JSONL file of our records (such as ``heedful store export`` writes).

    If a file of records holds no responses, those of ``responses.jsonl`` beside it are used. Raises ConfigError for a table
    without the usual columns and for options that do not fit the kind of file, MissingError if no record is selected,
    MissingError and DataError for a file that cannot be read at all.
    """
    rows = islice((row.value for row in table_rows(path) if row.problem is None), _ROWS_LOOKED_AT)
    if not any(_kind_of_row(row) for row in rows):
        if selection != Selection():
            raise ConfigError(
                f"{path.name} is a table of votes, not of records",
                expected="--answers, --phase, --group and --batch for records only",
                got=str(selection),
                where=path,
            )
        return votes_from_table(path, named=named)
    if named:
        raise ConfigError(
            f"{path.name} holds records, whose columns have fixed names",
            expected="--column for tables of votes only",
            got=", ".join(f"{use}={column}" for use, column in named.items()),
            where=path,
        )
    found = _Found()
    others: Counter[str] = Counter()
    for row in table_rows(path):
        kind = None if row.problem is not None else _kind_of_row(row.value)
        try:
            if row.problem is not None:
                raise DataError(row.problem)
            if kind is None:
                others[str(row.value.get("kind", "unknown"))] += 1  # type: ignore[union-attr]
                continue
            _add(found, [record_from_json(kind, row.value)])
        except DataError as error:
            found.bad.append(BadVote(f"line {row.line}", error.message))
    beside = path.with_name(file_name("response"))
    if not found.responses and beside.is_file():
        _add(found, (record_from_json("response", row, where=f"{beside}:{line}") for line, row in read_jsonl(beside)))
    notes = [f"rows of other kinds were not used: {', '.join(f'{n:,} {kind}' for kind, n in others.items())}"] if others else []
    return _votes(found, selection, path, notes)


def votes_of_project(folder: Path, database: str | None, selection: Selection) -> Votes:
    """Read votes from a project's labeling database and its records. An answer in both counts once.

    Raises MissingError if there is neither a project nor a database, StorageError for a database that cannot be read.
    """
    found = _Found()
    where = database_of(folder, database)
    is_project = (folder / CONFIG_FILE).is_file()
    if is_project and Project.load(folder).data.is_dir():
        records = Records.load(Project.load(folder).data)
        for some in (records.responses, records.rankings, records.ratings):
            _add(found, some.values())
    if not is_project or not isinstance(where, Path) or where.is_file():
        with existing(where) as opened, opened.read() as connection:
            _add(found, stored_rankings(connection))
            _add(found, stored_ratings(connection))
            named = {id for ranking in found.rankings.values() for id in ranking.response_ids}
            named |= {rating.response_id for rating in found.ratings.values()}
            _add(found, stored_responses(connection, named - set(found.responses)))
    return _votes(found, selection, folder, [])


def _kind_of_row(row: Any) -> Kind | None:
    """Return the kind of record in a row: the kind it names, else the one that its keys fit."""
    if row.get("kind") == "ranking" or ("kind" not in row and "response_ids" in row and "ranks" in row):
        return "ranking"
    if row.get("kind") == "rating" or ("kind" not in row and "response_id" in row and "overall" in row):
        return "rating"
    return "response" if row.get("kind") == "response" else None


def _add(found: _Found, records: Iterable[Any]) -> None:
    for record in records:
        if isinstance(record, Ranking):
            found.rankings[record.id] = record
        elif isinstance(record, Rating):
            found.ratings[record.id] = record
        elif isinstance(record, Response):
            found.responses[record.id] = record


def _votes(found: _Found, selection: Selection, where: Path, notes: list[str]) -> Votes:
    rankings = [one for one in found.rankings.values() if selection.takes(one)]
    ratings = [one for one in found.ratings.values() if selection.takes(one)]
    if not rankings and not ratings and (found.rankings or found.ratings):
        raise _nothing_selected(found, selection, where)
    answers = selection.answers or ("rankings" if rankings else "ratings")
    used: list[Ranking] | list[Rating] = rankings if answers == "rankings" else ratings
    if answers == "rankings":
        votes = votes_from_rankings(rankings, found.responses)
    else:
        votes = votes_from_ratings(ratings, found.responses)
    if not used:
        raise MissingError(
            f"there are no {answers} to compare models with",
            expected="answers of labelers to tasks about responses of several models",
            got=f"{len(rankings):,} rankings and {len(ratings):,} ratings",
            where=where,
            next_step=f"use --answers {'ratings' if answers == 'rankings' else 'rankings'}" if rankings or ratings else None,
        )
    notes = [f"votes come from pairs of {answers} of the phase {selection.phase}", *notes]
    simulated = sum(bool(one.metadata.get("simulated")) for one in used)
    if simulated:
        notes.append(f"{simulated:,} of {len(used):,} {answers} are by simulated labelers")
    batches = sorted({str(one.metadata["batch"]) for one in used if one.metadata.get("batch")})
    if len(batches) > 1:
        notes.append(f"answers of {len(batches)} batches are pooled ({', '.join(batches)}); --batch NAME takes one")
    return replace(votes, bad=(*found.bad, *votes.bad), notes=(*votes.notes, *notes))


def _nothing_selected(found: _Found, selection: Selection, where: Path) -> MissingError:
    everything = [*found.rankings.values(), *found.ratings.values()]
    there = Counter((one.phase, one.metadata.get("group"), one.metadata.get("batch")) for one in everything)
    shown = [
        f"{count:,} of phase {phase}" + (f", group {group}" if group else "") + (f", batch {batch}" if batch else "")
        for (phase, group, batch), count in there.most_common(5)
    ]
    wanted = [
        f"phase {selection.phase}",
        *(f"group {g}" for g in [selection.group] if g),
        *(f"batch {b}" for b in [selection.batch] if b),
    ]
    return MissingError(
        "no answer matches the phase, group and batch that you asked for",
        expected=f"answers of {', '.join(wanted)}",
        got="; ".join(shown),
        where=where,
        next_step="choose others with --phase, --group and --batch",
    )
