"""Screening of candidates: turns their stored answers into one anonymous row each, and records the decision (SPEC 2.1).

Who may know what:

- Researchers see a candidate only under a code, without name, pseudonym or id. No other page of the console shows what a
  candidate did: people, explorer and agreement leave out candidates and screening. Exports contain screening only on request.
- The code is made from the person's number, the number of times they were selected before, and a secret that is kept beside the
  database and never shown: it stays the same during one candidacy, changes afterwards, and cannot be computed
  from anything that a researcher sees.
- The program looks up the person only when the decision is made. From then on the person appears in the team under the
  pseudonym. The code is kept in ``screening_decision`` and the event log, for an admin with a reason to look; no page shows it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select, update

from heedful.errors import DataError, MissingError
from heedful.labeling.database import events
from heedful.labeling.database.moments import moment
from heedful.labeling.database.tables import (
    annotation,
    assignment,
    batch,
    demonstration,
    person,
    ranking,
    screening_decision,
    task,
)
from heedful.labeling.people.accounts import RESEARCH_ROLES
from heedful.labeling.queue.items import NewTask, add_tasks, make_batch
from heedful.records import Ranking
from heedful.statistics import ScreeningRecord, agreement_with, sensitive_counts
from heedful.statistics.screening import CODE_LETTERS

GOLD_LABELER = "\x00gold"
"""The labeler of a task's gold answer. No pseudonym contains a NUL."""
CANDIDATE = "candidate"
SCORED = "demonstration_id"
"""The payload key that names the demonstration to score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A decision on a candidate, under the code."""

    code: str
    selected: bool
    note: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Screening:
    """What the screening page shows. Codes only."""

    records: tuple[ScreeningRecord, ...]
    """Codes of undecided candidates, and of declined ones, who may still be selected."""
    declined: frozenset[str]
    topics: tuple[str, ...]
    """Topics that the self-assessment asked about."""
    decisions: tuple[Decision, ...]
    """Newest first, selections included."""
    unscored: int
    """Candidates' demonstrations that no researcher has scored."""


def code_of(secret: bytes, person_id: int, candidacy: int) -> str:
    """Eight letters of ``CODE_LETTERS``; ``candidacy`` counts the times that the person was selected before."""
    digest = int.from_bytes(hmac.digest(secret, f"screening:{person_id}:{candidacy}".encode(), hashlib.sha256), "big")
    letters: list[str] = []
    for _ in range(8):
        digest, letter = divmod(digest, len(CODE_LETTERS))
        letters.append(CODE_LETTERS[letter])
    return "".join(letters)


def screening(connection: Connection, secret: bytes) -> Screening:
    """Everything about the current candidates, under their codes and sorted by code."""
    codes = _codes(connection, secret)
    ids = list(codes)
    sensitive = _sensitive(connection, ids)
    compared = _comparisons(connection, ids)
    scores, unscored = _demonstration_scores(connection, ids)
    topics, asked = _topics(connection, ids)
    records = [
        ScreeningRecord(
            candidate=codes[id],
            sensitive_agreed=sensitive[id][0],
            sensitive_answered=sensitive[id][1],
            comparisons_agreed=compared[id][0],
            comparisons_made=compared[id][1],
            demonstration_scores=tuple(scores[id]),
            topics=topics[id],
        )
        for id in ids
    ]
    decisions = tuple(
        Decision(code=code, selected=selected, note=note, at=at)
        for code, selected, note, at in connection.execute(
            select(
                screening_decision.c.code, screening_decision.c.selected, screening_decision.c.note, screening_decision.c.at
            ).order_by(screening_decision.c.id.desc())
        )
    )
    latest: dict[str, bool] = {}
    for decision in decisions:
        latest.setdefault(decision.code, decision.selected)
    return Screening(
        records=tuple(sorted(records, key=lambda record: record.candidate)),
        declined=frozenset(code for code in codes.values() if latest.get(code) is False),
        topics=asked,
        decisions=decisions,
        unscored=unscored,
    )


def decide(
    connection: Connection,
    secret: bytes,
    code: str,
    *,
    selected: bool,
    note: str,
    decided_by: int,
    now: float | None = None,
) -> None:
    """Select or decline the candidate behind ``code``; a selected candidate joins the group training.

    A declined candidate stays a candidate and may be selected later. Raises MissingError for a code that no current
    candidate has, DataError for a note that is too long. Returns nothing, so that the caller does not learn who it was.
    """
    now = moment(now)
    if len(note) > 2_000:
        raise DataError("the note is too long", expected="at most 2,000 characters", got=f"{len(note):,}")
    found = [id for id, own in _codes(connection, secret).items() if own == code]
    if not found:
        raise MissingError(
            "there is no such candidate",
            expected="the code of someone who is being screened",
            got=code[:20],
            next_step="they may have been selected already: reload the screening page",
        )
    inserted = connection.execute(
        screening_decision.insert().values(
            person_id=found[0], code=code, selected=selected, note=note, decided_by=decided_by, at=now
        )
    )
    assert inserted.inserted_primary_key is not None
    if selected:
        connection.execute(update(person).where(person.c.id == found[0]).values(group_name="training"))
    events.record(
        connection,
        person_id=decided_by,
        action="select_candidate" if selected else "decline_candidate",
        subject="screening_decision",
        subject_id=str(inserted.inserted_primary_key[0]),
        before={"group": CANDIDATE},
        after={"code": code, "group": "training" if selected else CANDIDATE, "note": note},
        now=now,
    )


def _codes(connection: Connection, secret: bytes) -> dict[int, str]:
    """The code of each candidate who is not disabled."""
    times = (
        select(screening_decision.c.person_id, func.count().label("times"))
        .where(screening_decision.c.selected)
        .group_by(screening_decision.c.person_id)
        .subquery()
    )
    rows = connection.execute(
        select(person.c.id, func.coalesce(times.c.times, 0))
        .select_from(person.outerjoin(times, times.c.person_id == person.c.id))
        .where(person.c.group_name == CANDIDATE, person.c.role == "labeler", person.c.disabled.is_(None))
    )
    return {id: code_of(secret, id, candidacy) for id, candidacy in rows}


# ---------------------------------------------------------------------------------------------------- the four criteria


def _sensitive(connection: Connection, ids: Sequence[int]) -> Mapping[int, tuple[int, int]]:
    """(agreed, answered) of each candidate's flags, by prompt; a task's gold answer counts as the researchers'."""
    own: defaultdict[int, dict[str, bool]] = defaultdict(dict)
    gold: dict[str, bool] = {}
    rows = connection.execute(
        select(annotation.c.person_id, annotation.c.prompt_id, annotation.c.value, task.c.gold)
        .join(assignment, assignment.c.id == annotation.c.assignment_id)
        .join(task, task.c.id == assignment.c.task_id)
        .where(annotation.c.person_id.in_(ids), annotation.c.kind == "flag_sensitive", annotation.c.prompt_id.isnot(None))
        .order_by(annotation.c.created)
    )
    for id, prompt_id, value, known in rows:
        own[id][prompt_id] = value["sensitive"]
        if known is not None:
            gold[prompt_id] = known["sensitive"]
    prompts = {prompt_id for flags in own.values() for prompt_id in flags}
    researchers: defaultdict[int, dict[str, bool]] = defaultdict(dict)
    for some in _some(sorted(prompts - set(gold))):
        for id, prompt_id, value in connection.execute(
            select(annotation.c.person_id, annotation.c.prompt_id, annotation.c.value)
            .join(person, person.c.id == annotation.c.person_id)
            .where(annotation.c.prompt_id.in_(some), annotation.c.kind == "flag_sensitive", person.c.role.in_(RESEARCH_ROLES))
            .order_by(annotation.c.created)
        ):
            researchers[id][prompt_id] = value["sensitive"]
    votes = [gold, *researchers.values()]
    return defaultdict(lambda: (0, 0), {id: sensitive_counts(flags, votes) for id, flags in own.items()})


def _comparisons(connection: Connection, ids: Sequence[int]) -> Mapping[int, tuple[int, int]]:
    """(agreed, made) of each candidate's comparisons with each researcher's, and with the gold of the task."""
    rows = connection.execute(
        select(ranking, task.c.id.label("task_id"), task.c.gold)
        .join(assignment, assignment.c.id == ranking.c.assignment_id)
        .join(task, task.c.id == assignment.c.task_id)
        .where(ranking.c.person_id.in_(ids))
        .order_by(ranking.c.created)
    ).all()
    records = [_ranking(row, str(row.person_id)) for row in rows]
    for row in {row.task_id: row for row in rows if row.gold and row.gold.get("groups")}.values():
        ranks = {response_id: rank for rank, group in enumerate(row.gold["groups"], start=1) for response_id in group}
        records.append(
            Ranking(
                id=f"gold {row.task_id}",
                prompt_id=row.prompt_id,
                response_ids=tuple(ranks),
                ranks=tuple(ranks.values()),
                labeler=GOLD_LABELER,
            )
        )
    references = {GOLD_LABELER}
    for some in _some(sorted({row.prompt_id for row in rows})):
        for row in connection.execute(
            select(ranking)
            .join(person, person.c.id == ranking.c.person_id)
            .where(ranking.c.prompt_id.in_(some), person.c.role.in_(RESEARCH_ROLES))
            .order_by(ranking.c.created)
        ).all():
            records.append(_ranking(row, f"researcher {row.person_id}"))
            references.add(f"researcher {row.person_id}")
    agreed = agreement_with(records, references)
    return defaultdict(
        lambda: (0, 0), {int(id): (round(share.value * share.count), share.count) for id, share in agreed.items()}
    )


def _ranking(row: Any, labeler: str) -> Ranking:
    return Ranking(
        id=row.id, prompt_id=row.prompt_id, response_ids=tuple(row.response_ids), ranks=tuple(row.ranks), labeler=labeler
    )


def _demonstration_scores(connection: Connection, ids: Sequence[int]) -> tuple[Mapping[int, list[int]], int]:
    """Scores of each candidate's demonstrations (the researchers' rounded mean), and how many demonstrations have none."""
    writer_of = _writers(connection, ids)
    given: defaultdict[str, list[int]] = defaultdict(list)
    if writer_of:
        for value, payload in connection.execute(
            select(annotation.c.value, task.c.payload)
            .join(assignment, assignment.c.id == annotation.c.assignment_id)
            .join(task, task.c.id == assignment.c.task_id)
            .where(annotation.c.kind == "score_demonstration")
        ):
            given[payload.get(SCORED, "")].append(value["score"])
    scores: defaultdict[int, list[int]] = defaultdict(list)
    for demonstration_id, id in writer_of.items():
        if own := given.get(demonstration_id):
            scores[id].append(round(sum(own) / len(own)))
    return scores, sum(demonstration_id not in given for demonstration_id in writer_of)


def _writers(connection: Connection, ids: Sequence[int]) -> dict[str, int]:
    """Who wrote each of the candidates' demonstrations."""
    rows = connection.execute(
        select(demonstration.c.id, demonstration.c.person_id)
        .where(demonstration.c.person_id.in_(ids))
        .order_by(demonstration.c.created, demonstration.c.id)
    )
    return dict(rows.all())


def make_scoring_tasks(connection: Connection, *, created_by: int, overlap: int = 1, now: float | None = None) -> int:
    """Make a scoring task for each candidate's demonstration that has none; return how many.

    The tasks, for researchers, come in random order. They show the prompt and the text, but not who wrote it.
    """
    candidates = connection.execute(select(person.c.id).where(person.c.group_name == CANDIDATE)).scalars().all()
    scoring = select(batch.c.id).where(batch.c.kind == "score_demonstration")
    asked = {
        payload.get(SCORED)
        for payload in connection.execute(select(task.c.payload).where(task.c.batch_id.in_(scoring))).scalars()
    }
    missing = [id for id in _writers(connection, candidates) if id not in asked]
    if not missing:
        return 0
    rows = connection.execute(
        select(demonstration.c.id, demonstration.c.prompt_id, demonstration.c.text).where(demonstration.c.id.in_(missing))
    ).all()
    batch_id = make_batch(
        connection,
        name="Demonstrations of candidates",
        kind="score_demonstration",
        phase="screening",
        overlap=overlap,
        created_by=created_by,
        now=now,
    )
    add_tasks(
        connection,
        batch_id,
        [NewTask(prompt_id=row.prompt_id, payload={"text": row.text, SCORED: row.id}) for row in rows],
        created_by=created_by,
        now=now,
    )
    return len(rows)


def _topics(connection: Connection, ids: Sequence[int]) -> tuple[Mapping[int, frozenset[str]], tuple[str, ...]]:
    """Each candidate's newest choice of topics, and all topics that were asked about."""
    chosen: dict[int, frozenset[str]] = {}
    asked: dict[str, None] = {}
    for id, value, payload in connection.execute(
        select(annotation.c.person_id, annotation.c.value, task.c.payload)
        .join(assignment, assignment.c.id == annotation.c.assignment_id)
        .join(task, task.c.id == assignment.c.task_id)
        .where(annotation.c.person_id.in_(ids), annotation.c.kind == "self_assess")
        .order_by(annotation.c.created)
    ):
        chosen[id] = frozenset(value["topics"])
        asked.update(dict.fromkeys(payload.get("topics", [])))
    return defaultdict(frozenset, chosen), tuple(asked)


def _some(values: Sequence[str], size: int = 5_000) -> list[Sequence[str]]:
    return [values[start : start + size] for start in range(0, len(values), size)]
