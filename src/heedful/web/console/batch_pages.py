"""Batches of tasks: make them from stored prompts and outputs, see their progress, close them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, cast, get_args

from starlette.responses import Response

from heedful.errors import DataError, HeedfulError, MissingError
from heedful.labeling.exchange import labels
from heedful.labeling.quality.gold_items import GOLD_KINDS, batches_of_answers
from heedful.labeling.queue import changes, task_making
from heedful.labeling.queue.kinds import KINDS, PHASES, WITH_OUTPUTS, WITHOUT_PROMPT, Phase, TaskKind
from heedful.project.project import Project
from heedful.prompts.personal import find_personal_data
from heedful.records import Source, Split, UseCase
from heedful.web.console import uploads
from heedful.web.routing import Form, Id, Routes, Visit, Visiting
from heedful.web.sent_forms import FormValues

MADE_HERE: tuple[TaskKind, ...] = tuple(kind for kind in KINDS if kind != "score_demonstration")
"""All kinds except scoring demonstrations, which belongs to screening."""
STYLES = ("plain", "few_shot", "user_based")


def routes(add: Routes) -> None:
    """Add the pages of batches."""
    add.get("/batches", show_batches, who="researcher")
    add.post("/batches/import", bring_in, who="researcher")
    uploads.routes(add)
    add.get("/batches/new/{kind}", show_new, who="researcher")
    add.post("/batches/new/{kind}", make, who="researcher")
    add.get("/batches/{batch_id}", show_batch, who="researcher")
    add.post("/batches/{batch_id}/close", close, who="researcher")
    add.post("/batches/{batch_id}/open", reopen, who="researcher")
    add.post("/batches/{batch_id}/edit", edit, who="researcher")
    add.get("/batches/{batch_id}/more", show_more, who="researcher")
    add.post("/batches/{batch_id}/more", make_more, who="researcher")


def show_batches(visit: Visiting) -> Response:
    """Every batch, and the kinds of task that can be made."""
    with visit.database.read() as connection:
        found = task_making.all_batches(connection)
    return visit.page("console/batches/list.html", batches=found, kinds=MADE_HERE, project=visit.settings.project)


def bring_in(visit: Visiting) -> Response:
    """Load the project's prompts and outputs, and the rankings that `heedful align` asks for."""
    if visit.settings.project is None:
        raise MissingError("there is no project to import prompts from", next_step="start heedful web in a project's folder")
    project = Project.load(visit.settings.project)
    with visit.database.write() as connection:
        imported = labels.import_project(connection, project, created_by=visit.person.id)
    return visit.go("/batches", flash=f"From the project, {imported.summary()}.")


def show_batch(visit: Visiting, batch_id: Id) -> Response:
    """One batch: its rules and its progress."""
    with visit.database.read() as connection:
        found = task_making.get_batch(connection, batch_id)
    return visit.page("console/batches/batch.html", batch=found, problem=None)


def close(visit: Visiting, batch_id: Id) -> Response:
    """Stop serving its tasks."""
    return _set_closed(
        visit, batch_id, True, "Closed: its tasks are no longer served. Tasks in progress can still be submitted."
    )


def reopen(visit: Visiting, batch_id: Id) -> Response:
    """Serve it again."""
    return _set_closed(visit, batch_id, False, "Open: its tasks are served again.")


def _set_closed(visit: Visit, batch_id: int, closed: bool, flash: str) -> Response:
    with visit.database.write() as connection:
        changes.close_batch(connection, batch_id, person_id=visit.person.id, closed=closed)
    return visit.go(f"/batches/{batch_id}", flash=flash)


def edit(visit: Visiting, form: Form, batch_id: Id) -> Response:
    """Change how it is served: name, labelers for each task, limits, priority."""
    try:
        priority = form.whole("priority", 0) or 0
        if not -1_000 <= priority <= 1_000:
            raise DataError("the priority is not valid", expected="-1000 to 1000", got=str(priority))
        with visit.database.write() as connection:
            changes.edit_batch(
                connection,
                batch_id,
                name=form.text("name"),
                overlap=form.whole("overlap", 1) or 0,
                per_labeler_limit=form.whole("per_labeler_limit"),
                lease_seconds=60.0 * (form.whole("lease_minutes", 30) or 0),
                person_id=visit.person.id,
            )
            changes.set_priority(connection, batch_id, priority, person_id=visit.person.id)
    except DataError as error:
        with visit.database.read() as connection:
            found = task_making.get_batch(connection, batch_id)
        return visit.page("console/batches/batch.html", status=422, batch=found, problem=error)
    return visit.go(f"/batches/{batch_id}", flash="Saved.")


def show_more(visit: Visiting, batch_id: Id) -> Response:
    """The form for more tasks of a batch."""
    with visit.database.read() as connection:
        batch = task_making.get_batch(connection, batch_id)
        values = {"order_only": "yes"} if task_making.asks_order_alone(connection, batch_id) else {}
    return _new_page(visit, batch.kind, values, batch=batch)


def make_more(visit: Visiting, form: Form, batch_id: Id) -> Response:
    """Add tasks to a batch, under its rules."""
    with visit.database.read() as connection:
        batch = task_making.get_batch(connection, batch_id)
    return _make(visit, form, batch.kind, batch)


# ---------------------------------------------------------------------------------------------------- making one


def show_new(visit: Visiting, kind: str) -> Response:
    """The form for a new batch of one kind."""
    return _new_page(visit, _known(kind), {})


def make(visit: Visiting, form: Form, kind: str) -> Response:
    """Make a batch or, with the button "Count matching prompts", only say how many prompts fit."""
    return _make(visit, form, _known(kind), None)


def _make(visit: Visit, form: FormValues, kind: TaskKind, batch: task_making.Batch | None) -> Response:
    """Make tasks, in a new batch or in an existing one."""
    values = {name: form.text(name) for name in form.names() if name != "csrf"}
    try:
        plan = _plan(kind, form, batch)
        if batch is not None and kind == "rank":
            with visit.database.read() as connection:
                plan = replace(
                    plan, payloads=[{"order_only": True} if task_making.asks_order_alone(connection, batch.id) else {}]
                )
        task_making.check_plan(plan)
        prompt_ids = fitting(visit, plan)
        if form.has("count"):
            gold = _fitting_gold(visit, plan, prompt_ids)
            return _new_page(visit, kind, values, batch=batch, fitting=len(prompt_ids), gold=gold)
        made = make_planned(visit, plan, prompt_ids, batch_id=None if batch is None else batch.id)
    except DataError as error:
        return _new_page(visit, kind, values, batch=batch, status=422, problem=error)
    return visit.go(f"/batches/{made.batch_id}", flash=_said(plan, made))


def fitting(visit: Visit, plan: task_making.Plan) -> Sequence[str]:
    """The ids of the prompts that a plan's tasks can be about; kinds without prompts need none."""
    if plan.kind in WITHOUT_PROMPT:
        return ()
    with visit.database.read() as connection:  # may read every prompt, but no writer waits for it
        return task_making.fitting_prompts(connection, plan.kind, plan.phase, plan.choice)


def make_planned(
    visit: Visit, plan: task_making.Plan, prompt_ids: Sequence[str], *, batch_id: int | None = None
) -> task_making.Made:
    """Make a batch, or add tasks to one, for the page and the JSON API. Raises DataError if nothing fits."""
    about = _findings if plan.kind == "review_personal_data" and not any(plan.payloads) else None
    with visit.database.write() as connection:
        seed = secrets.randbits(32)
        return task_making.make_tasks(
            connection, plan, prompt_ids, by=visit.person.id, seed=seed, about=about, batch_id=batch_id
        )


def _fitting_gold(visit: Visit, plan: task_making.Plan, prompt_ids: Sequence[str]) -> int | None:
    """How many of the prompts can be gold; None for kinds without gold."""
    if plan.kind not in GOLD_KINDS or plan.phase == "screening":
        return None
    with visit.database.read() as connection:
        return len(task_making.fitting_gold(connection, plan, prompt_ids))


def _said(plan: task_making.Plan, made: task_making.Made) -> str:
    """What was made, in up to three sentences."""
    said = f"Made {made.tasks} {'task' if made.tasks == 1 else 'tasks'}"
    said += f", {made.gold} of them gold." if plan.gold else "."
    if made.tasks < plan.tasks:
        said += f" {plan.tasks} were asked for; no more prompts match."
    if made.gold < plan.gold:
        said += f" {plan.gold} gold tasks were asked for; no more answers by researchers match."
    return said


def _known(kind: str) -> TaskKind:
    if kind not in MADE_HERE:
        raise MissingError("there is no such kind of task to make here", expected=", ".join(MADE_HERE), got=repr(kind[:40]))
    return cast("TaskKind", kind)


def _new_page(
    visit: Visit,
    kind: TaskKind,
    values: Mapping[str, Any],
    *,
    batch: task_making.Batch | None = None,
    status: int = 200,
    problem: HeedfulError | None = None,
    fitting: int | None = None,
    gold: int | None = None,
) -> Response:
    with visit.database.read() as connection:
        models = task_making.models(connection) if kind in WITH_OUTPUTS else []
        gold_batches = batches_of_answers(connection, kind) if kind in GOLD_KINDS else []
    return visit.page(
        "console/batches/new.html",
        status=status,
        kind=kind,
        batch=batch,
        values=values,
        problem=problem,
        fitting=fitting,
        gold=gold,
        gold_batches=gold_batches,
        with_gold=kind in GOLD_KINDS,
        models=models,
        phases=PHASES,
        splits=get_args(Split),
        sources=get_args(Source),
        use_cases=get_args(UseCase),
        styles=STYLES,
        with_prompt=kind not in WITHOUT_PROMPT,
        with_outputs=kind in WITH_OUTPUTS,
        most=task_making.MOST_TASKS,
        smallest_k=task_making.SMALLEST_K,
        largest_k=task_making.LARGEST_K,
    )


def _plan(kind: TaskKind, form: FormValues, batch: task_making.Batch | None) -> task_making.Plan:
    """What the form asks for; an existing batch keeps its own rules."""
    phase = form.text("phase") if batch is None else batch.phase
    if phase not in PHASES:
        raise DataError("the phase is not valid", expected=", ".join(PHASES), got=repr(phase[:40]))
    choice = task_making.Choice(
        split=form.text("split", "") or None,
        source=form.text("source", "") or None,
        use_case=form.text("use_case", "") or None,
        language=form.text("language", "").strip() or None,
        fresh=form.has("fresh"),
        smallest_k=form.whole("smallest_k", task_making.SMALLEST_K) or 0,
        largest_k=form.whole("largest_k", task_making.LARGEST_K) or 0,
        model=form.text("model", "") or None,
    )
    if batch is not None:
        return task_making.Plan(
            name=batch.name,
            kind=kind,
            phase=batch.phase,
            tasks=form.whole("tasks", 0) or 0,
            gold=form.whole("gold", 0) or 0,
            gold_batch_id=form.whole("gold_batch_id"),
            choice=choice,
            payloads=_payloads(kind, form),
        )
    return task_making.Plan(
        name=form.text("name"),
        kind=kind,
        phase=cast("Phase", phase),
        tasks=form.whole("tasks", 0) or 0,
        gold=form.whole("gold", 0) or 0,
        gold_batch_id=form.whole("gold_batch_id"),
        overlap=form.whole("overlap", 1) or 0,
        priority=form.whole("priority", 0) or 0,
        per_labeler_limit=form.whole("per_labeler_limit"),
        lease_seconds=60.0 * (form.whole("lease_minutes", 30) or 0),
        choice=choice,
        payloads=_payloads(kind, form),
    )


def _findings(text: str) -> Mapping[str, Any]:
    """Personal data that the patterns find in a prompt, to mark for the labeler."""
    return {"findings": [asdict(finding) for finding in find_personal_data(text)]}


def _payloads(kind: TaskKind, form: FormValues) -> Sequence[Mapping[str, Any]]:
    lines = [line.strip() for line in form.text("lines", "").splitlines() if line.strip()]
    if kind == "self_assess":
        if not lines:
            raise DataError("there are no topics", expected="one topic on each line")
        return [{"topics": list(dict.fromkeys(lines))}]
    if kind == "rank" and form.has("order_only"):
        return [{"order_only": True}]
    if kind != "write_prompt":
        return [{}]
    style = form.text("style", "plain")
    if style not in STYLES:
        raise DataError("the style is not valid", expected=", ".join(STYLES), got=repr(style[:40]))
    use_case = form.text("use_case", "") or None
    if style != "user_based":
        return [{"style": style, "use_case": use_case, "application": None}]
    if not lines:
        raise DataError("there are no applications", expected="what users want to use the model for, one per line")
    return [{"style": style, "use_case": use_case, "application": line} for line in lines]
