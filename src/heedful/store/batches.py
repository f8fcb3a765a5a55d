"""Making tasks of what is stored: which prompts, which of their outputs, how many (SPEC 1.1, 2.3)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, ScalarSelect, exists, func, select

from heedful.errors import DataError, MissingError
from heedful.store.items import LEASE_SECONDS, NewTask, add_tasks, batched, make_batch
from heedful.store.kinds import WITH_OUTPUTS, WITHOUT_PROMPT, Phase, TaskKind
from heedful.store.tables import batch, prompt, response, task

MOST_TASKS = 100_000
"""Tasks of one batch made here."""
SMALLEST_K, LARGEST_K = 4, 9
"""Outputs of a ranking (SPEC 2.3)."""
_PROMPTS_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which prompts tasks are made of; None: whatever it is."""

    split: str | None = None
    source: str | None = None
    use_case: str | None = None
    language: str | None = None
    fresh: bool = True
    """Only prompts of which there is no task of this kind and phase yet."""
    smallest_k: int = SMALLEST_K
    """Fewest outputs, where the kind shows outputs."""
    largest_k: int = LARGEST_K
    """Most outputs: of a prompt that has more, so many are drawn."""
    model: str | None = None
    """Only outputs of this model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A batch to make."""

    name: str
    kind: TaskKind
    phase: Phase
    tasks: int
    """How many at most."""
    overlap: int = 1
    priority: int = 0
    per_labeler_limit: int | None = None
    lease_seconds: float = LEASE_SECONDS
    choice: Choice = Choice()
    payloads: Sequence[Mapping[str, Any]] = field(default=({},))
    """What tasks hold besides; where there are several, the tasks take turns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch and how many tasks it has, by their state."""

    id: int
    name: str
    kind: TaskKind
    phase: Phase
    overlap: int
    priority: int
    per_labeler_limit: int | None
    lease_seconds: float
    created: float
    closed: float | None
    tasks: Mapping[str, int]

    @property
    def size(self) -> int:
        """All its tasks."""
        return sum(self.tasks.values())


def all_batches(connection: Connection) -> list[Batch]:
    """Every batch, those that are served first, the newest first."""
    return _batches(connection, None)


def get_batch(connection: Connection, batch_id: int) -> Batch:
    """One batch. Raises MissingError."""
    found = _batches(connection, batch_id)
    if not found:
        raise MissingError("there is no such batch", got=f"number {batch_id}")
    return found[0]


def _batches(connection: Connection, batch_id: int | None) -> list[Batch]:
    chosen = select(batch).order_by(batch.c.closed.is_not(None), batch.c.id.desc())
    counts = select(task.c.batch_id, task.c.state, func.count()).group_by(task.c.batch_id, task.c.state)
    if batch_id is not None:
        chosen, counts = chosen.where(batch.c.id == batch_id), counts.where(task.c.batch_id == batch_id)
    states: dict[int, dict[str, int]] = {}
    for of_batch, state, number in connection.execute(counts):
        states.setdefault(of_batch, {})[state] = number
    return [
        Batch(
            id=row.id,
            name=row.name,
            kind=row.kind,
            phase=row.phase,
            overlap=row.overlap,
            priority=row.priority,
            per_labeler_limit=row.per_labeler_limit,
            lease_seconds=row.lease_seconds,
            created=row.created,
            closed=row.closed,
            tasks=states.get(row.id, {}),
        )
        for row in connection.execute(chosen)
    ]


def fitting_prompts(connection: Connection, kind: TaskKind, phase: Phase, choice: Choice) -> list[str]:
    """The ids of all prompts that a task of this kind can be made of."""
    query = select(prompt.c.id)
    for name in ("split", "source", "use_case", "language"):
        wanted = getattr(choice, name)
        if wanted is not None:
            query = query.where(prompt.c[name] == wanted)
    if kind in WITH_OUTPUTS:
        query = query.where(_outputs_of(choice.model) >= choice.smallest_k)
    if choice.fresh:
        query = query.where(~exists().where(task.c.prompt_id == prompt.c.id, task.c.kind == kind, task.c.phase == phase))
    return list(connection.execute(query.order_by(prompt.c.id)).scalars())


def _outputs_of(model: str | None) -> ScalarSelect[int]:
    outputs = select(func.count()).where(response.c.prompt_id == prompt.c.id)
    if model is not None:
        outputs = outputs.where(response.c.model == model)
    return outputs.scalar_subquery()


def models(connection: Connection) -> list[str]:
    """The names of the models that outputs are of, as far as the newest 10,000 outputs tell."""
    newest = select(response.c.model).order_by(response.c.id.desc()).limit(10_000).subquery()
    found = connection.execute(select(newest.c.model).distinct()).scalars()
    return sorted(name for name in found if name is not None)


def check_plan(plan: Plan) -> None:
    """Raise DataError for a plan of which no batch can be made."""

    def require(condition: bool, what: str, expected: str, got: object) -> None:
        if not condition:
            raise DataError(f"{what} is not valid", expected=expected, got=str(got))

    require(bool(plan.name.strip()) and len(plan.name) <= 200, "the name", "1 to 200 characters", repr(plan.name[:40]))
    require(1 <= plan.tasks <= MOST_TASKS, "the number of tasks", f"1 to {MOST_TASKS}", plan.tasks)
    require(1 <= plan.overlap <= 1_000, "labelers for each task", "1 to 1000", plan.overlap)
    require(-1_000 <= plan.priority <= 1_000, "the priority", "-1000 to 1000", plan.priority)
    limit = plan.per_labeler_limit
    require(limit is None or 1 <= limit <= MOST_TASKS, "answers of one labeler", f"1 to {MOST_TASKS}, or nothing", limit)
    require(60 <= plan.lease_seconds <= 7 * 86_400, "the time to finish", "a minute to a week", plan.lease_seconds)
    require(bool(plan.payloads), "what is asked", "something", "nothing")
    if plan.kind in WITH_OUTPUTS:
        low, high = plan.choice.smallest_k, plan.choice.largest_k
        require(1 <= low <= high <= LARGEST_K, "the number of outputs", f"from 1 to {LARGEST_K}", f"{low} to {high}")


def make_tasks(connection: Connection, plan: Plan, prompt_ids: Sequence[str], *, by: int | None, seed: int) -> tuple[int, int]:
    """Make a batch of at most ``plan.tasks`` of these prompts, drawn at random; (its id, how many tasks).

    ``prompt_ids``: from :func:`fitting_prompts`; kinds without prompts need none. Raises DataError where nothing fits.
    """
    check_plan(plan)
    draw = random.Random(seed)
    if plan.kind in WITHOUT_PROMPT:
        chosen: list[str | None] = [None] * plan.tasks
    else:
        chosen = list(draw.sample(prompt_ids, min(plan.tasks, len(prompt_ids))))
    if not chosen:
        raise DataError(
            "no prompt fits",
            expected="stored prompts"
            + (f" with at least {plan.choice.smallest_k} outputs" if plan.kind in WITH_OUTPUTS else ""),
            got="none that are not in such a task already" if plan.choice.fresh else "none",
            next_step="choose less strictly, or import prompts and outputs first",
        )
    batch_id = make_batch(
        connection,
        name=plan.name,
        kind=plan.kind,
        phase=plan.phase,
        overlap=plan.overlap,
        priority=plan.priority,
        per_labeler_limit=plan.per_labeler_limit,
        lease_seconds=plan.lease_seconds,
        created_by=by,
    )
    outputs = _drawn_outputs(connection, chosen, plan.choice, draw) if plan.kind in WITH_OUTPUTS else {}
    new = (
        NewTask(
            prompt_id=prompt_id,
            response_ids=outputs.get(prompt_id, ()) if prompt_id is not None else (),
            payload=plan.payloads[number % len(plan.payloads)],
        )
        for number, prompt_id in enumerate(chosen)
    )
    return batch_id, len(add_tasks(connection, batch_id, new, created_by=by, seed=seed))


def _drawn_outputs(
    connection: Connection, prompt_ids: Sequence[str | None], choice: Choice, draw: random.Random
) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for some in batched(prompt_ids, _PROMPTS_AT_ONCE):
        query = select(response.c.prompt_id, response.c.id).where(response.c.prompt_id.in_(some)).order_by(response.c.id)
        if choice.model is not None:
            query = query.where(response.c.model == choice.model)
        for prompt_id, response_id in connection.execute(query):
            found.setdefault(prompt_id, []).append(response_id)
    return {
        prompt_id: draw.sample(ids, choice.largest_k) if len(ids) > choice.largest_k else ids
        for prompt_id, ids in found.items()
    }
