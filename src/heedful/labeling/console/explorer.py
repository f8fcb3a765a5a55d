"""Search stored prompts, responses, demonstrations, rankings and ratings, newest first, a page at a time.

A page never counts or sorts a whole table. It continues after the last row of the previous page (its time and id), in steps of
``STEP`` index entries, until it is full or ``BUDGET_SECONDS`` have passed. In the second case it says how far back it looked,
and the next page continues from there. So any combination of filters is quick among a million rows, and a rare word takes
several pages. If a filter names few rows (a labeler, a small batch), only these are read.

The text to search must occur exactly, except for the case of A to Z.

Answers of candidates and of screening are left out: see :mod:`heedful.labeling.quality.candidate_screening`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Connection, Select, Table, exists, func, literal_column, select, tuple_

from heedful.errors import DataError
from heedful.labeling.database.tables import (
    assignment,
    batch,
    demonstration,
    instruction,
    person,
    prompt,
    ranking,
    rating,
    response,
    task,
    task_response,
)
from heedful.labeling.quality.labeler_agreement import not_screening
from heedful.labeling.queue.kinds import storable
from heedful.records import Source, Split, UseCase

Kind = Literal["prompt", "response", "demonstration", "ranking", "rating"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TABLES: Mapping[Kind, Table] = {
    "prompt": prompt,
    "response": response,
    "demonstration": demonstration,
    "ranking": ranking,
    "rating": rating,
}
PAGE = 25
STEP = 5_000
"""Index entries that one step reads."""
BUDGET_SECONDS = 0.1
"""No further step starts after this time."""
SMALL_BATCH = 5_000
"""For a batch of at most this many tasks, only its own rows are searched."""
EXCERPT = 300
"""Characters of a text on a page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What to look for. A row must meet all conditions."""

    kind: Kind = "prompt"
    text: str = ""
    """Part of the text of the prompt, response or demonstration; for rankings and ratings, of the prompt."""
    use_case: str | None = None
    source: str | None = None
    split: str | None = None
    labeler: str | None = None
    """Pseudonym; not for prompts and responses."""
    batch_id: int | None = None
    since: float | None = None
    until: float | None = None
    """Before this time."""

    def __post_init__(self) -> None:
        for name, value, options in (
            ("kind", self.kind, KINDS),
            ("use_case", self.use_case, get_args(UseCase)),
            ("source", self.source, get_args(Source)),
            ("split", self.split, get_args(Split)),
        ):
            if value is not None and value not in options:
                raise DataError(f"there is no such {name.replace('_', ' ')}", expected=", ".join(options), got=value[:40])
        for name, words in (("text", self.text), ("labeler", self.labeler)):
            if words is not None and not storable(words):
                raise DataError(f"the {name} to search for is not valid", expected="text without NUL", got=repr(words[:40]))
        if self.batch_id is not None and not 1 <= self.batch_id < 2**31:
            raise DataError("there is no such batch", expected="a batch's number", got=str(self.batch_id)[:40])
        if len(self.text) > 200:
            raise DataError("the text to search is too long", expected="at most 200 characters", got=str(len(self.text)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One row of a page; texts are excerpts."""

    id: str
    created: float
    prompt_id: str
    prompt_text: str
    use_case: str | None
    source: str
    split: str
    text: str | None = None
    """Of the response or demonstration."""
    model: str | None = None
    labeler: str | None = None
    batch_id: int | None = None
    response_ids: Sequence[str] = ()
    ranks: Sequence[int] = ()
    overall: int | None = None
    flags: Mapping[str, bool] = field(default_factory=dict[str, bool])


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The rows of one page, and where the next page starts."""

    rows: tuple[Found, ...]
    next: tuple[float, str] | None
    """(created, id) of the row after which the next page starts; none: this is the last page."""
    full: bool
    """False if the page ended because its time was up: older rows may follow."""
    looked_back_to: float | None
    """The oldest time that was searched; none: nothing was searched."""


def page(
    connection: Connection,
    search: Search,
    *,
    behind: tuple[float, str] | None = None,
    size: int = PAGE,
    budget_seconds: float = BUDGET_SECONDS,
    step: int = STEP,
) -> Page:
    """The next rows, newest first, behind ``behind``."""
    plan = _plan(connection, search)
    if plan is None:
        return Page(rows=(), next=None, full=True, looked_back_to=None)
    started, rows, oldest = time.monotonic(), list[Found](), None
    while True:
        edge = _edge(connection, plan, behind, step)
        some = connection.execute(_rows(plan, behind, edge, size + 1 - len(rows))).mappings().all()
        rows += [Found(**dict(row)) for row in some]
        if len(rows) > size:
            last = rows[size - 1]
            return Page(rows=tuple(rows[:size]), next=(last.created, last.id), full=True, looked_back_to=last.created)
        if edge is None:
            return Page(rows=tuple(rows), next=None, full=True, looked_back_to=oldest)
        behind, oldest = edge, edge[0]
        if time.monotonic() - started > budget_seconds:
            return Page(rows=tuple(rows), next=behind, full=False, looked_back_to=oldest)


def every_row(connection: Connection, search: Search, *, step: int = STEP) -> Iterator[dict[str, Any]]:
    """All rows, newest first, with all columns, whole texts, and what an export says about an answer."""
    plan = _plan(connection, search)
    behind: tuple[float, str] | None = None
    while plan is not None:
        edge = _edge(connection, plan, behind, step)
        for row in connection.execute(_rows(plan, behind, edge, None, whole=True)).mappings():
            yield dict(row)
        if edge is None:
            return
        behind = edge


def of_prompt(connection: Connection, kind: Literal["demonstration", "ranking"], prompt_id: str, limit: int) -> list[Found]:
    """The newest demonstrations or rankings of one prompt that were imported, not given as answers to a task."""
    table = TABLES[kind]
    own = (table.c.prompt_id == prompt_id) & table.c.assignment_id.is_(None)
    query = _rows(_Plan(search=Search(kind=kind), own=own), None, None, limit)
    return [Found(**dict(row)) for row in connection.execute(query).mappings()]


# ---------------------------------------------------------------------------------------------------- the queries


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A search, and what was looked up for it."""

    search: Search
    person_id: int | None = None
    own: ColumnElement[bool] | None = None
    """A condition on the table that finds the few rows of a small batch."""

    @property
    def table(self) -> Table:
        return TABLES[self.search.kind]

    @property
    def is_answer(self) -> bool:
        return "person_id" in self.table.c

    def position(self) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
        """Time and id. A plus before the time stops the database from walking the index by time to find few known rows."""
        name = self.table.name
        created = self.table.c.created if self.own is None else literal_column(f"+{name}.created", self.table.c.created.type)
        return created, self.table.c.id

    def bounds(self, behind: tuple[float, str] | None) -> list[ColumnElement[bool]]:
        """The conditions that an index serves: where to start, how far to go, whose rows."""
        created, id = self.position()
        found: list[ColumnElement[bool]] = [] if self.own is None else [self.own]
        if behind is not None:
            found.append(tuple_(created, id) < tuple_(*behind))
        if self.search.since is not None:
            found.append(created >= self.search.since)
        if self.search.until is not None:
            found.append(created < self.search.until)
        if self.person_id is not None:
            found.append(self.table.c.person_id == self.person_id)
        return found


def _plan(connection: Connection, search: Search) -> _Plan | None:
    """None if nothing can be found."""
    plan = _Plan(search=search)
    if search.labeler:
        if not plan.is_answer:
            raise DataError("prompts and responses have no labeler", expected="no labeler", got=search.labeler[:40])
        found = connection.scalar(
            select(person.c.id).where(person.c.pseudonym == search.labeler, person.c.group_name != "candidate")
        )
        if found is None:
            return None
        plan = replace(plan, person_id=found)
    if search.batch_id is not None:
        few = _few_of_batch(connection, plan, search.batch_id)
        if few == []:
            return None
        if few is not None:
            column = plan.table.c.assignment_id if plan.is_answer else plan.table.c.id
            plan = replace(plan, own=column.in_(few))
    return plan


def _few_of_batch(connection: Connection, plan: _Plan, batch_id: int) -> list[Any] | None:
    """Ids by which to find the rows of a small batch; None: the batch is large."""
    tasks = connection.execute(select(task.c.id).where(task.c.batch_id == batch_id).limit(SMALL_BATCH + 1)).scalars().all()
    if len(tasks) > SMALL_BATCH:
        return None
    if plan.is_answer:
        query = select(assignment.c.id).where(assignment.c.task_id.in_(tasks), assignment.c.state == "answered")
    elif plan.table is response:
        query = select(task_response.c.response_id).where(task_response.c.task_id.in_(tasks)).distinct()
    else:
        query = select(task.c.prompt_id).where(task.c.id.in_(tasks), task.c.prompt_id.isnot(None)).distinct()
    few = list(connection.execute(query.limit(6 * SMALL_BATCH + 1)).scalars())
    return few if len(few) <= 6 * SMALL_BATCH else None


def _edge(connection: Connection, plan: _Plan, behind: tuple[float, str] | None, step: int) -> tuple[float, str] | None:
    """Time and id of the last of the next ``step`` rows; None if there are fewer."""
    if plan.own is not None:
        return None
    created, id = plan.position()
    row = connection.execute(
        select(created, id)
        .where(*plan.bounds(behind))
        .order_by(created.desc(), id.desc())
        .offset(step - 1)  # skips index entries, not rows
        .limit(1)
    ).one_or_none()
    return None if row is None else (row[0], row[1])


def _rows(
    plan: _Plan, behind: tuple[float, str] | None, edge: tuple[float, str] | None, limit: int | None, *, whole: bool = False
) -> Select[*tuple[Any, ...]]:
    table, search = plan.table, plan.search
    created, id = plan.position()
    conditions = plan.bounds(behind)
    if edge is not None:
        conditions.append(tuple_(created, id) >= tuple_(*edge))
    joined: Any = table
    if table is not prompt:
        joined = joined.join(prompt, prompt.c.id == table.c.prompt_id)
    if plan.is_answer:
        joined = (
            joined.join(person, person.c.id == table.c.person_id)
            .outerjoin(assignment, assignment.c.id == table.c.assignment_id)
            .outerjoin(task, task.c.id == assignment.c.task_id)
        )
        conditions.append(not_screening())
    if search.text:
        searched = table.c.text if "text" in table.c else prompt.c.text
        conditions.append(searched.icontains(search.text, autoescape=True))
    for name in ("use_case", "source", "split"):
        if (value := getattr(search, name)) is not None:
            conditions.append(prompt.c[name] == value)
    if search.batch_id is not None and plan.own is None:
        conditions.append(_of_batch(plan, search.batch_id))
    columns = _whole_columns(plan) if whole else _page_columns(plan)
    if whole and plan.is_answer:
        joined = joined.outerjoin(instruction, instruction.c.id == assignment.c.instruction_id)
        joined = joined.outerjoin(batch, batch.c.id == task.c.batch_id)
    chosen = select(*columns).select_from(joined).where(*conditions).order_by(created.desc(), id.desc())
    return chosen if limit is None else chosen.limit(limit)


def _of_batch(plan: _Plan, batch_id: int) -> ColumnElement[bool]:
    if plan.is_answer:
        return task.c.batch_id == batch_id
    other = task.alias("of_batch")
    # + 0 makes the database start from the few tasks of a prompt, not from the many of a batch.
    in_batch = other.c.batch_id + 0 == batch_id
    if plan.table is prompt:
        return exists().where(other.c.prompt_id == prompt.c.id, in_batch)
    return exists().where(task_response.c.response_id == response.c.id, task_response.c.task_id == other.c.id, in_batch)


def _page_columns(plan: _Plan) -> list[Any]:
    table = plan.table
    columns = [
        table.c.id,
        table.c.created,
        prompt.c.id.label("prompt_id"),
        func.substr(prompt.c.text, 1, EXCERPT).label("prompt_text"),
        prompt.c.use_case,
        prompt.c.source,
        prompt.c.split,
    ]
    if plan.is_answer:
        columns += [person.c.pseudonym.label("labeler"), task.c.batch_id]
    if table in (response, demonstration):
        columns.append(func.substr(table.c.text, 1, EXCERPT).label("text"))
    return columns + [table.c[name] for name in ("model", "response_ids", "ranks", "overall", "flags") if name in table.c]


def _whole_columns(plan: _Plan) -> list[Any]:
    columns: list[Any] = list(plan.table.c)
    if plan.is_answer:
        columns += [
            person.c.pseudonym.label("labeler"),
            person.c.group_name.label("group"),
            person.c.simulated,
            assignment.c.seconds_spent,
            assignment.c.late,
            assignment.c.surplus,
            assignment.c.shown_order,
            task.c.id.label("task_id"),
            task.c.phase,
            batch.c.name.label("batch"),
            prompt.c.text.label("prompt_text"),
            prompt.c.turns.label("prompt_turns"),
            instruction.c.version.label("instruction_version"),
        ]
    return columns
