"""Make tasks from stored prompts: which prompts, which of their outputs, how many (SPEC 1.1, 2.3)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, ScalarSelect, exists, func, select

from heedful.errors import DataError, MissingError
from heedful.labeling.database.tables import batch, prompt, response, task
from heedful.labeling.quality.gold_items import GOLD_KINDS, Known, known_answers
from heedful.labeling.queue.items import LEASE_SECONDS, NewTask, add_tasks, batched, make_batch
from heedful.labeling.queue.kinds import WITH_OUTPUTS, WITHOUT_PROMPT, Phase, TaskKind

MOST_TASKS = 100_000
"""The largest number of tasks in one batch."""
SMALLEST_K, LARGEST_K = 4, 9
"""Outputs of a ranking (SPEC 2.3)."""
TRAINING_KINDS: frozenset[TaskKind] = frozenset({"demonstrate", "rank", "rate"})
"""Kinds whose answers in the phase training train a model."""
_PROMPTS_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which prompts to use. None means any, except that training takes no prompts of the split test."""

    split: str | None = None
    source: str | None = None
    use_case: str | None = None
    language: str | None = None
    fresh: bool = True
    """Only prompts without a task of this kind and phase."""
    smallest_k: int = SMALLEST_K
    """Fewest outputs, if the kind shows outputs."""
    largest_k: int = LARGEST_K
    """Most outputs. If a prompt has more outputs, this many are sampled."""
    model: str | None = None
    """Only outputs of this model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A batch to make."""

    name: str
    kind: TaskKind
    phase: Phase
    tasks: int
    """At most this many."""
    gold: int = 0
    """At most this many of them are gold: they have a researcher's answer to compare labelers with."""
    gold_batch_id: int | None = None
    """The screening batch that gold answers come from; None: any."""
    overlap: int = 1
    priority: int = 0
    per_labeler_limit: int | None = None
    lease_seconds: float = LEASE_SECONDS
    choice: Choice = Choice()
    payloads: Sequence[Mapping[str, Any]] = field(default=({},))
    """What else tasks hold. Tasks use several payloads in turn."""


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
    gold: int
    """Tasks with a known answer."""

    @property
    def size(self) -> int:
        """All its tasks."""
        return sum(self.tasks.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The batch that was made."""

    batch_id: int
    tasks: int
    gold: int
    """How many of them have a known answer."""


def all_batches(connection: Connection) -> list[Batch]:
    """Every batch: open ones first, newest first."""
    return _batches(connection, None)


def get_batch(connection: Connection, batch_id: int) -> Batch:
    """One batch. Raises MissingError."""
    found = _batches(connection, batch_id)
    if not found:
        raise MissingError("there is no such batch", got=f"number {batch_id}")
    return found[0]


def asks_order_alone(connection: Connection, batch_id: int) -> bool:
    """Whether a batch of ranking tasks asks only for the order, without ratings and flags, judged by its last task."""
    last = select(task.c.payload).where(task.c.batch_id == batch_id).order_by(task.c.id.desc()).limit(1)
    payload = connection.execute(last).scalar_one_or_none()
    return payload is not None and payload.get("order_only") is True


def _batches(connection: Connection, batch_id: int | None) -> list[Batch]:
    chosen = select(batch).order_by(batch.c.closed.is_not(None), batch.c.id.desc())
    counts = select(task.c.batch_id, task.c.state, func.count()).group_by(task.c.batch_id, task.c.state)
    known = select(task.c.batch_id, func.count()).where(task.c.gold.is_not(None)).group_by(task.c.batch_id)
    if batch_id is not None:
        chosen, counts = chosen.where(batch.c.id == batch_id), counts.where(task.c.batch_id == batch_id)
        known = known.where(task.c.batch_id == batch_id)
    states: dict[int, dict[str, int]] = {}
    for of_batch, state, number in connection.execute(counts):
        states.setdefault(of_batch, {})[state] = number
    gold: dict[int, int] = dict(connection.execute(known).all())
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
            gold=gold.get(row.id, 0),
        )
        for row in connection.execute(chosen)
    ]


def fitting_prompts(connection: Connection, kind: TaskKind, phase: Phase, choice: Choice) -> list[str]:
    """The ids of all prompts from which a task of this kind can be made.

    Tasks that train a model take prompts of the split test only if the choice names that split.
    """
    query = select(prompt.c.id)
    if phase == "training" and kind in TRAINING_KINDS and choice.split is None:
        query = query.where(prompt.c.split != "test")
    for name in ("split", "source", "use_case", "language"):
        wanted = getattr(choice, name)
        if wanted is not None:
            query = query.where(prompt.c[name] == wanted)
    if kind == "review_personal_data":  # prompts that the pipeline kept although it found personal data (SPEC 1.2)
        query = query.where(prompt.c.details["needs_review"].as_boolean().is_(True))
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
    """The names of the models that wrote the newest 10,000 outputs."""
    newest = select(response.c.model).order_by(response.c.id.desc()).limit(10_000).subquery()
    found = connection.execute(select(newest.c.model).distinct()).scalars()
    return sorted(name for name in found if name is not None)


def check_plan(plan: Plan) -> None:
    """Raise DataError if no batch can be made from a plan."""

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
    require(0 <= plan.gold <= plan.tasks, "the number of gold tasks", f"0 to {plan.tasks}: some of the tasks", plan.gold)
    if plan.gold:
        require(plan.kind in GOLD_KINDS, "gold in a batch of this kind", ", ".join(GOLD_KINDS), plan.kind)
        expected = "training or evaluation: in screening, candidates are compared with researchers anyway"
        require(plan.phase != "screening", "gold in a batch of this phase", expected, plan.phase)
    if plan.kind in WITH_OUTPUTS:
        low, high = plan.choice.smallest_k, plan.choice.largest_k
        require(1 <= low <= high <= LARGEST_K, "the number of outputs", f"from 1 to {LARGEST_K}", f"{low} to {high}")


def make_tasks(
    connection: Connection,
    plan: Plan,
    prompt_ids: Sequence[str],
    *,
    by: int | None,
    seed: int,
    about: Callable[[str], Mapping[str, Any]] | None = None,
    batch_id: int | None = None,
) -> Made:
    """Make a batch from at most ``plan.tasks`` of these prompts, drawn at random; at most ``plan.gold`` of its tasks are gold.

    ``prompt_ids``: from :func:`fitting_prompts`; kinds without prompts need none. ``about``: makes a task's payload from its
    prompt's text, instead of ``plan.payloads``. ``batch_id``: add the tasks to this batch, under its rules.
    Raises DataError if no prompt fits, or if gold was asked for and none fits.
    """
    check_plan(plan)
    draw = random.Random(seed)
    if not prompt_ids and plan.kind not in WITHOUT_PROMPT:
        raise _nothing_fits(plan)
    gold = _drawn_gold(connection, plan, prompt_ids, draw) if plan.gold else {}
    chosen: list[str | None] = [None] * plan.tasks
    if plan.kind not in WITHOUT_PROMPT:
        others = [id for id in prompt_ids if id not in gold]
        chosen = [*gold, *draw.sample(others, min(plan.tasks - len(gold), len(others)))]
        draw.shuffle(chosen)  # labelers see their tasks' numbers, which must not reveal gold
    if batch_id is None:
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
    outputs: dict[str, Sequence[str]] = {}
    if plan.kind in WITH_OUTPUTS:
        outputs |= _drawn(_outputs(connection, chosen, plan.choice.model), plan.choice.largest_k, draw)
        outputs |= {id: known.response_ids for id, known in gold.items()}
    payloads = {id: about(text) for id, text in _texts(connection, chosen)} if about is not None else {}
    new = (
        NewTask(
            prompt_id=prompt_id,
            response_ids=outputs.get(prompt_id, ()) if prompt_id is not None else (),
            payload=payloads[prompt_id] if prompt_id in payloads else plan.payloads[number % len(plan.payloads)],
            gold=gold[prompt_id].answer if prompt_id in gold else None,
        )
        for number, prompt_id in enumerate(chosen)
    )
    made = add_tasks(connection, batch_id, new, created_by=by, seed=seed)
    return Made(batch_id=batch_id, tasks=len(made), gold=len(gold))


def _nothing_fits(plan: Plan) -> DataError:
    outputs = f" with at least {plan.choice.smallest_k} outputs" if plan.kind in WITH_OUTPUTS else ""
    return DataError(
        "no prompt fits",
        expected=f"stored prompts{outputs}",
        got="none that are not in such a task already" if plan.choice.fresh else "none",
        next_step="relax the conditions, or import prompts and outputs first",
    )


def fitting_gold(connection: Connection, plan: Plan, prompt_ids: Sequence[str]) -> dict[str, Known]:
    """Gold answers for tasks of a plan, by prompt; the newest one if several researchers answered.

    ``prompt_ids``: from :func:`fitting_prompts`. An answer about outputs fits if its task showed as many outputs as other tasks
    about this prompt will show: another number would give a gold task away.
    """
    if plan.kind not in GOLD_KINDS or plan.phase == "screening":
        return {}
    fitting = set(prompt_ids)
    found = [known for known in known_answers(connection, plan.kind, batch_id=plan.gold_batch_id) if known.prompt_id in fitting]
    outputs = _outputs(connection, {known.prompt_id for known in found}, plan.choice.model) if plan.kind in WITH_OUTPUTS else {}

    def shows_what_others_do(known: Known) -> bool:
        of_prompt = outputs.get(known.prompt_id, [])
        return set(known.response_ids) <= set(of_prompt) and len(known.response_ids) == min(
            len(of_prompt), plan.choice.largest_k
        )

    return {known.prompt_id: known for known in found if shows_what_others_do(known)}


def _drawn_gold(connection: Connection, plan: Plan, prompt_ids: Sequence[str], draw: random.Random) -> dict[str, Known]:
    fitting = fitting_gold(connection, plan, prompt_ids)
    if not fitting:
        where = "screening" if plan.gold_batch_id is None else f"batch {plan.gold_batch_id} of screening"
        raise DataError(
            "there is no gold for these tasks",
            expected=f"answers of researchers in {where} to tasks of this kind, about prompts that fit and that no labeler was "
            "given in screening, with as many outputs as here",
            got="none",
            next_step="make a batch of this kind in the phase screening, answer its clear tasks yourself, and come back",
        )
    return {id: fitting[id] for id in draw.sample(sorted(fitting), min(plan.gold, len(fitting)))}


def _texts(connection: Connection, prompt_ids: Sequence[str | None]) -> Iterator[tuple[str, str]]:
    for some in batched(prompt_ids, _PROMPTS_AT_ONCE):
        for row in connection.execute(select(prompt.c.id, prompt.c.text).where(prompt.c.id.in_(some))):
            yield row.id, row.text


def _outputs(connection: Connection, prompt_ids: Iterable[str | None], model: str | None) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for some in batched(prompt_ids, _PROMPTS_AT_ONCE):
        query = select(response.c.prompt_id, response.c.id).where(response.c.prompt_id.in_(some)).order_by(response.c.id)
        if model is not None:
            query = query.where(response.c.model == model)
        for prompt_id, response_id in connection.execute(query):
            found.setdefault(prompt_id, []).append(response_id)
    return found


def _drawn(outputs: Mapping[str, list[str]], most: int, draw: random.Random) -> dict[str, list[str]]:
    return {prompt_id: draw.sample(ids, most) if len(ids) > most else ids for prompt_id, ids in outputs.items()}
