"""Compute agreement, alpha, kappa and tau-b from stored answers (SPEC 2.4).

People appear under their pseudonyms. Answers from screening are left out:
:mod:`heedful.labeling.quality.candidate_screening` shows them under codes. Only the newest answers count (``MAX_RANKINGS`` and
so on), so that a page stays quick; the export has all of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, or_, select

from heedful.labeling.database.tables import assignment, person, ranking, rating, task
from heedful.labeling.people.accounts import RESEARCH_ROLES
from heedful.records import Ranking, Rating
from heedful.statistics import (
    Estimate,
    FlagAgreement,
    agreement_with,
    flag_agreement,
    group_agreement,
    kendall_tau_b,
    labeler_agreement,
    labeler_tau_b,
    leave_one_out_agreement,
    ranking_alpha,
    rating_alpha,
)

MAX_RANKINGS = 5_000
"""Newest rankings that agreement is computed from, unless asked otherwise."""
MAX_RATINGS = 20_000
LOOKED_THROUGH = 100_000
"""How many of the newest answers are searched for pairs that can be compared."""
RESEARCHERS = "researchers"
"""The group under which researchers and admins are listed, whatever their own group is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which answers count."""

    batch_id: int | None = None
    phase: Literal["training", "evaluation"] | None = None
    since: float | None = None
    simulated: bool | None = None
    """Only people (False), only simulated labelers (True), or both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementReport:
    """How labelers agree; shares from 0 to 1, coefficients up to 1. Researchers count only in the fields that name them."""

    rankings: int
    ratings: int
    """Like ``rankings``, only those of outputs or prompts that two or more people judged."""
    prompts: int
    """Prompts that two or more labelers ranked."""
    newest_only: bool
    """Whether older answers were left out."""
    comparisons: Estimate
    """Among all labelers, over comparisons; 72.6 ± 1.5 % in the paper."""
    by_group: Mapping[tuple[str, str], Estimate]
    """Within and between groups; researchers are a group."""
    with_others: Mapping[str, Estimate]
    """Each labeler against all other labelers."""
    with_researchers: Mapping[str, Estimate]
    tau_b: Estimate
    labeler_tau_b: Mapping[str, Estimate]
    ranking_alpha: Estimate
    rating_alpha: Estimate
    """Ordinal."""
    rating_alpha_interval: Estimate
    flags: Mapping[str, FlagAgreement]
    groups: Mapping[str, str]
    """Each labeler's group."""


def agreement(
    connection: Connection, scope: Scope | None = None, *, max_rankings: int = MAX_RANKINGS, max_ratings: int = MAX_RATINGS
) -> AgreementReport:
    """Everything that the agreement page shows, from the newest rankings and ratings in ``scope``."""
    scope = scope or Scope()
    rankings, groups = compared_rankings(connection, scope, limit=max_rankings + 1)
    ratings, rating_groups = compared_ratings(connection, scope, limit=max_ratings + 1)
    newest_only = len(rankings) > max_rankings or len(ratings) > max_ratings
    return agreement_report(
        rankings[-max_rankings:], ratings[-max_ratings:], {**groups, **rating_groups}, newest_only=newest_only
    )


def agreement_report(
    rankings: Sequence[Ranking], ratings: Sequence[Rating], groups: Mapping[str, str], *, newest_only: bool = False
) -> AgreementReport:
    """The report on these records; ``groups`` gives each person's group, which is ``RESEARCHERS`` for researchers."""
    own = [record for record in rankings if groups[record.labeler] != RESEARCHERS]
    own_ratings = [record for record in ratings if groups[record.labeler] != RESEARCHERS]
    researchers = [labeler for labeler, group in groups.items() if group == RESEARCHERS]
    by_prompt: defaultdict[str, set[str]] = defaultdict(set)
    for record in own:
        by_prompt[record.prompt_id].add(record.labeler)
    return AgreementReport(
        rankings=len(rankings),
        ratings=len(ratings),
        prompts=sum(len(labelers) > 1 for labelers in by_prompt.values()),
        newest_only=newest_only,
        comparisons=labeler_agreement(own),
        by_group=group_agreement(rankings, groups),
        with_others=leave_one_out_agreement(own),
        with_researchers=agreement_with(rankings, researchers),
        tau_b=kendall_tau_b(own),
        labeler_tau_b=labeler_tau_b(own),
        ranking_alpha=ranking_alpha(own),
        rating_alpha=rating_alpha(own_ratings),
        rating_alpha_interval=rating_alpha(own_ratings, metric="interval"),
        flags=flag_agreement(own_ratings),
        groups=dict(groups),
    )


# ---------------------------------------------------------------------------------------------------- stored answers


def compared_rankings(
    connection: Connection, scope: Scope, *, limit: int | None = None
) -> tuple[list[Ranking], dict[str, str]]:
    """The newest rankings in ``scope`` of prompts that others ranked too, oldest first, and each labeler's group."""
    columns = (ranking.c.id, ranking.c.prompt_id, ranking.c.response_ids, ranking.c.ranks)
    rows = connection.execute(_newest(connection, columns, ranking, ranking.c.prompt_id, scope, limit)).all()
    records = [
        Ranking(id=id, prompt_id=prompt_id, response_ids=tuple(response_ids), ranks=tuple(ranks), labeler=labeler)
        for id, prompt_id, response_ids, ranks, labeler, *_ in reversed(rows)
    ]
    return records, {row.pseudonym: _group(row.role, row.group_name) for row in rows}


def compared_ratings(connection: Connection, scope: Scope, *, limit: int | None = None) -> tuple[list[Rating], dict[str, str]]:
    """The newest ratings in ``scope`` of outputs that others rated too, oldest first, and each labeler's group."""
    columns = (rating.c.id, rating.c.prompt_id, rating.c.response_id, rating.c.overall, rating.c.flags)
    rows = connection.execute(_newest(connection, columns, rating, rating.c.response_id, scope, limit)).all()
    records = [
        Rating(id=id, prompt_id=prompt_id, response_id=response_id, overall=overall, flags=flags, labeler=labeler)
        for id, prompt_id, response_id, overall, flags, labeler, *_ in reversed(rows)
    ]
    return records, {row.pseudonym: _group(row.role, row.group_name) for row in rows}


def not_screening() -> ColumnElement[bool]:
    """The condition that leaves out candidates' and, from screening, labelers' answers (joined to person, assignment, task)."""
    return and_(
        person.c.group_name != "candidate",
        or_(task.c.phase.is_(None), task.c.phase != "screening", person.c.role.in_(RESEARCH_ROLES)),
    )


def _newest(
    connection: Connection, columns: Sequence[Any], table: Any, judged: Any, scope: Scope, limit: int | None
) -> Select[*tuple[Any, ...]]:
    other = table.alias("other")
    by_another = exists().where(other.c[judged.name] == judged, other.c.person_id != table.c.person_id)
    oldest = connection.scalar(
        select(table.c.created).order_by(table.c.created.desc(), table.c.id.desc()).offset(LOOKED_THROUGH).limit(1)
    )
    chosen = (
        select(*columns, person.c.pseudonym, person.c.role, person.c.group_name)
        .select_from(
            table.join(person, person.c.id == table.c.person_id)
            .outerjoin(assignment, assignment.c.id == table.c.assignment_id)
            .outerjoin(task, task.c.id == assignment.c.task_id)
        )
        .where(not_screening(), by_another)
        .order_by(table.c.created.desc(), table.c.id.desc())
    )
    if oldest is not None:
        chosen = chosen.where(table.c.created >= oldest)
    if scope.batch_id is not None:
        chosen = chosen.where(task.c.batch_id == scope.batch_id)
    if scope.phase is not None:
        chosen = chosen.where(task.c.phase == scope.phase)
    if scope.since is not None:
        chosen = chosen.where(table.c.created >= scope.since)
    if scope.simulated is not None:
        chosen = chosen.where(person.c.simulated == scope.simulated)
    return chosen if limit is None else chosen.limit(limit)


def _group(role: str, group: str) -> str:
    return RESEARCHERS if role in RESEARCH_ROLES else group
