"""One person's work on one task, as that person may see it: no model names, no gold, no other labeler's answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, select

from heedful.conversation import Turn
from heedful.errors import MissingError
from heedful.labeling.database.tables import assignment, batch, person, prompt, response, task
from heedful.labeling.queue.items import stored_turns
from heedful.labeling.queue.kinds import Phase, TaskKind, TaskView


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPrompt:
    """The prompt of a task, as labelers see it."""

    id: str
    turns: tuple[Turn, ...]
    text: str
    """All turns as one text."""
    use_case: str | None
    language: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One of a task's outputs, without its author."""

    id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentView:
    """What a labeler may see of an assignment."""

    id: int
    task_id: int
    kind: TaskKind
    phase: Phase
    batch_id: int
    batch_name: str
    token: str
    state: str
    """leased | answered | skipped | expired | released"""
    leased: float
    expires: float
    prompt: ShownPrompt | None
    outputs: tuple[Output, ...]
    """In this labeler's order."""
    payload: Mapping[str, Any]
    draft: Mapping[str, Any] | None
    draft_version: int
    draft_saved: float | None
    answer: Mapping[str, Any] | None
    answered: float | None
    late: bool
    surplus: bool
    skip_reason: str | None
    instruction_id: int | None

    @property
    def for_check(self) -> TaskView:
        """What ``check_answer`` needs."""
        return TaskView(response_ids=tuple(output.id for output in self.outputs), payload=self.payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class PastAnswer:
    """A line of a labeler's own history."""

    id: int
    kind: TaskKind
    phase: Phase
    batch_name: str
    state: str
    """answered | skipped"""
    answered: float
    late: bool
    beginning: str | None
    """Of the prompt."""


_SEEN = select(
    assignment,
    task.c.kind,
    task.c.phase,
    task.c.batch_id,
    task.c.payload,
    batch.c.name.label("batch_name"),
    prompt.c.id.label("prompt_id"),
    prompt.c.text.label("prompt_text"),
    prompt.c.turns,
    prompt.c.use_case,
    prompt.c.language,
).select_from(
    assignment.join(task).join(batch, task.c.batch_id == batch.c.id).outerjoin(prompt, task.c.prompt_id == prompt.c.id)
)


def view_assignment(connection: Connection, assignment_id: int, person_id: int) -> AssignmentView:
    """A person's own assignment. Raises the same MissingError if there is none and if it is another person's."""
    query = _SEEN.where(assignment.c.id == assignment_id, assignment.c.person_id == person_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise not_there(assignment_id)
    return _view(connection, row)


def current_assignments(connection: Connection, person_id: int, *, now: float) -> list[AssignmentView]:
    """The person's unfinished work, newest first: running leases, and expired leases with a draft."""
    worker = connection.execute(select(person.c.role, person.c.group_name).where(person.c.id == person_id)).mappings().one()
    query = _begun(person_id, phase_of(worker)).order_by(assignment.c.leased.desc(), assignment.c.id.desc())
    views = [_view(connection, row) for row in connection.execute(query).all()]
    return [view for view in views if view.draft is not None or view.expires > now]


def _begun(person_id: int, phase: Phase) -> Select[Any]:
    return _SEEN.where(
        assignment.c.person_id == person_id,
        assignment.c.state.in_(("leased", "expired")),
        task.c.phase == phase,
        task.c.state != "withdrawn",
    )


def phase_of(worker: Mapping[Any, Any]) -> Phase:
    """The one phase that a person works in (SPEC 2.1, 2.4). ``worker`` has role and group."""
    if worker["role"] != "labeler" or worker["group_name"] == "candidate":
        return "screening"
    return "evaluation" if worker["group_name"] == "held_out" else "training"


def own_answers(connection: Connection, person_id: int, *, limit: int = 50, before: float | None = None) -> list[PastAnswer]:
    """A person's answers and skips, newest first; ``before``: only those older than this time (for the next page)."""
    newest_first = assignment.c.answered.desc(), assignment.c.id.desc()
    # An index gives the ids; then only these few rows, which hold whole answers, are read.
    ids = select(assignment.c.id).where(assignment.c.person_id == person_id, assignment.c.state.in_(("answered", "skipped")))
    if before is not None:
        ids = ids.where(assignment.c.answered < before)
    found = connection.execute(ids.order_by(*newest_first).limit(limit)).scalars().all()
    rows = connection.execute(_SEEN.where(assignment.c.id.in_(found)).order_by(*newest_first))
    return [
        PastAnswer(
            id=row.id,
            kind=row.kind,
            phase=row.phase,
            batch_name=row.batch_name,
            state=row.state,
            answered=row.answered,
            late=row.late,
            beginning=None if row.prompt_text is None else row.prompt_text[:200],
        )
        for row in rows
    ]


def not_there(assignment_id: int) -> MissingError:
    """The error for an assignment that this person does not have."""
    return MissingError("there is no such task for you", expected="a task that was given to you", got=f"number {assignment_id}")


def _view(connection: Connection, row: Row[Any]) -> AssignmentView:
    outputs: tuple[Output, ...] = ()
    if row.shown_order:
        texts = connection.execute(select(response.c.id, response.c.text).where(response.c.id.in_(row.shown_order)))
        text_of = {found.id: found.text for found in texts}
        outputs = tuple(Output(id=response_id, text=text_of[response_id]) for response_id in row.shown_order)
    shown = None
    if row.prompt_id is not None:
        shown = ShownPrompt(
            id=row.prompt_id,
            turns=stored_turns(row.prompt_text, row.turns),
            text=row.prompt_text,
            use_case=row.use_case,
            language=row.language,
        )
    return AssignmentView(
        id=row.id,
        task_id=row.task_id,
        kind=row.kind,
        phase=row.phase,
        batch_id=row.batch_id,
        batch_name=row.batch_name,
        token=row.token,
        state=row.state,
        leased=row.leased,
        expires=row.expires,
        prompt=shown,
        outputs=outputs,
        payload=row.payload,
        draft=row.draft,
        draft_version=row.draft_version,
        draft_saved=row.draft_saved,
        answer=row.answer,
        answered=row.answered,
        late=row.late,
        surplus=row.surplus,
        skip_reason=row.skip_reason,
        instruction_id=row.instruction_id,
    )
