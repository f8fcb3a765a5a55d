"""Move prompts, outputs and tasks from a project into the database, and answers back as records (JSONL; SPEC 1, 2).

The rules of the export:

- Every kind of answer is exported: demonstrations, rankings, ratings and prompts as records, every other kind as a row of
  ``"kind": "annotation"`` with the answer exactly as it was given.
- Ids are those of the stored rows, so a second export adds nothing. The labeler is the pseudonym.
- Each answer has its phase. Only answers of the phase training may train a model.
- Screening is exported only on request. Its labelers get codes, which differ from those on the console and from export to
  export.
- Late answers are marked ``late``. Surplus ones (the task had enough answers, or was withdrawn) are exported only on request,
  marked ``surplus``. So are superseded ones (corrected or sent back), as rows of ``"kind": "annotation"``: nothing trains on
  them.
- ``metadata`` also has the instruction version, the seconds spent, the group, and whether the labeler is simulated.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, Table, exists, func, select

from heedful.conversation import response_text, trimmed, turns_of
from heedful.labeling.console.explorer import Kind
from heedful.labeling.database.tables import (
    annotation,
    assignment,
    batch,
    demonstration,
    instruction,
    person,
    prompt,
    ranking,
    rating,
    response,
    superseded_answer,
    task,
    task_response,
)
from heedful.labeling.exchange.label_records import demonstration_of, ranking_of, rating_of, record_of
from heedful.labeling.quality.candidate_screening import code_of
from heedful.labeling.queue import items
from heedful.labeling.queue.kinds import PHASES, Phase, TaskKind
from heedful.labeling.usage.consent import PLAYGROUND
from heedful.labeling.usage.usage_export import playground_rows
from heedful.project.data_folder import file_name, kind_of, record_from_json, record_to_json
from heedful.project.files import read_jsonl
from heedful.project.project import Project
from heedful.records import Demonstration, Ranking, Rating, Split

EXPORTED: tuple[Phase, ...] = ("training", "evaluation")
_STREAM = {"yield_per": 1_000}


# ---------------------------------------------------------------------------------------------------- into the database


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What was new."""

    prompts: int
    responses: int
    tasks: Mapping[str, int] = field(default_factory=dict[str, int])
    """Tasks by batch."""

    def summary(self) -> str:
        """One line for people."""
        tasks = ", ".join(f"{count} tasks in {name!r}" for name, count in self.tasks.items() if count) or "no new tasks"
        return f"new: {self.prompts} prompts, {self.responses} responses, {tasks}"


def import_project(
    connection: Connection,
    project: Project,
    *,
    overlap: int = 1,
    demonstrations: int = 0,
    created_by: int | None = None,
    now: float | None = None,
) -> Imported:
    """Add a project's prompts and responses, and make the tasks that ``heedful align`` left in ``tasks/``.

    ``demonstrations``: also make this many tasks to demonstrate prompts of the split train that have no demonstration. What is
    already there is not added again. Raises DataError naming file and line for a broken row or an id that has another text.
    """
    data = project.data
    prompts = items.add_prompts(connection, _read(data, "prompt"), now=now)
    responses = items.add_responses(connection, _read(data, "response"), now=now)
    made: Counter[str] = Counter()
    for file, phase in (("ranking", "training"), ("evaluation", "evaluation")):
        path = project.tasks / f"{file}.jsonl"
        rows = read_jsonl(path) if path.is_file() else ()
        new = [
            items.NewTask(prompt_id=row["prompt_id"], response_ids=tuple(row["response_ids"]))
            for _, row in rows
            if not _shown_already(connection, phase, row["response_ids"])
        ]
        name = f"{project.name}: {file}"
        made[name] = _in_batch(connection, name, "rank", phase, new, overlap, created_by, now)
    if demonstrations:
        demonstrated = {row["prompt_id"] for _, row in _rows(data / file_name("demonstration"))}
        ids = (
            id for id in prompts_without_task(connection, "demonstrate", "training", split="train") if id not in demonstrated
        )
        new = [items.NewTask(prompt_id=id) for id, _ in zip(ids, range(demonstrations), strict=False)]
        name = f"{project.name}: demonstrations"
        made[name] = _in_batch(connection, name, "demonstrate", "training", new, overlap, created_by, now)
    return Imported(prompts=prompts, responses=responses, tasks=dict(made))


def prompts_without_task(connection: Connection, kind: TaskKind, phase: Phase, *, split: Split | None = None) -> list[str]:
    """Ids of prompts without a task of this kind and phase, in order."""
    there = exists().where(task.c.prompt_id == prompt.c.id, task.c.kind == kind, task.c.phase == phase)
    query = select(prompt.c.id).where(~there).order_by(prompt.c.id)
    return list(connection.execute(query if split is None else query.where(prompt.c.split == split)).scalars())


def _in_batch(
    connection: Connection,
    name: str,
    kind: TaskKind,
    phase: Any,
    new: list[items.NewTask],
    overlap: int,
    created_by: int | None,
    now: float | None,
) -> int:
    if new:
        batch_id = items.make_batch(
            connection, name=name, kind=kind, phase=phase, overlap=overlap, created_by=created_by, now=now
        )
        items.add_tasks(connection, batch_id, new, created_by=created_by, now=now)
    return len(new)


def _shown_already(connection: Connection, phase: str, response_ids: Sequence[str]) -> bool:
    query = (
        select(func.count())
        .select_from(task_response.join(task))
        .where(task_response.c.response_id == response_ids[0], task.c.phase == phase, task.c.kind == "rank")
    )
    return connection.execute(query).scalar_one() > 0


def _read(data: Path, kind: Any) -> Iterator[Any]:
    path = data / file_name(kind)
    for line, row in read_jsonl(path) if path.is_file() else ():
        record: Any = record_from_json(kind, row, where=f"{path}:{line}")
        check = items.check_prompt if kind == "prompt" else items.check_response
        check(record, where=f"{path}:{line}")
        yield record


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    yield from read_jsonl(path) if path.is_file() else ()


# ---------------------------------------------------------------------------------------------------- out of the database


def stored_demonstrations(
    connection: Connection, *, batch_ids: Sequence[int] | None = None, surplus: bool = False
) -> Iterator[Demonstration]:
    """Demonstrations as records, oldest first; ``metadata`` says how each was made. Each text continues its prompt."""
    for row in _answers(connection, demonstration, batch_ids=batch_ids, surplus=surplus):
        yield demonstration_of(row, _metadata(row))


def stored_rankings(
    connection: Connection, *, batch_ids: Sequence[int] | None = None, surplus: bool = False
) -> Iterator[Ranking]:
    """Rankings as records, the oldest first."""
    for row in _answers(connection, ranking, batch_ids=batch_ids, surplus=surplus):
        yield ranking_of(row, _metadata(row))


def stored_ratings(
    connection: Connection, *, batch_ids: Sequence[int] | None = None, surplus: bool = False
) -> Iterator[Rating]:
    """Ratings as records, the oldest first."""
    for row in _answers(connection, rating, batch_ids=batch_ids, surplus=surplus):
        yield rating_of(row, _metadata(row))


def exported_records(connection: Connection, *, surplus: bool = False, screening: bool = False) -> Iterator[dict[str, Any]]:
    """Every answer, and the prompts and responses that answers name, as rows for ``heedful import heedful``.

    Dependencies come first. Rows are streamed, however many answers there are. A prompt that a labeler wrote has no split: the
    import gives it the split of its owner. ``surplus`` (with superseded ones) and ``screening`` also export these answers.
    """
    phases = PHASES if screening else EXPORTED
    kinds: tuple[Kind, ...] = ("prompt", "response")
    of_playground = set[str]()
    for kind in kinds:
        for row in _named(connection, prompt if kind == "prompt" else response, phases, surplus):
            record = {"kind": kind, **record_of(kind, row)}
            if row["id"].startswith(PLAYGROUND):
                of_playground.add(row["id"])
                if kind == "prompt" and record.get("split") != "test":
                    record.pop("split", None)  # the import gives it the split of its owner
            yield record
    secret = secrets.token_bytes(32)

    def answers(table: Table) -> Iterator[Mapping[str, Any]]:
        for row in _answers(connection, table, phases=phases, surplus=surplus):
            coded = {"labeler": code_of(secret, row["person_id"], 0)} if row["phase"] == "screening" else {}
            yield {**row, **coded}

    for row in answers(annotation):
        if row["annotation_kind"] == "write_prompt":
            yield from written_prompt_rows(row["id"], row["value"], row["labeler"], row["phase"], _metadata(row))
    for row in answers(demonstration):
        yield _row(demonstration_of(row, _metadata(row)))
    for row in answers(ranking):
        yield _row(ranking_of(row, _metadata(row)))
    for row in answers(rating):
        yield _row(rating_of(row, _metadata(row)))
    for row in answers(annotation):
        if row["annotation_kind"] != "write_prompt" and row["response_id"] is None:  # one row for the whole answer
            yield annotation_row(row)
    yield from playground_rows(connection, of_playground)
    if surplus:
        yield from map(annotation_row, _superseded(connection, phases, secret))


def annotation_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """An answer for which there is no record type, exactly as it was given, with what its task showed."""
    return {
        "kind": "annotation",
        "task_kind": row["annotation_kind"],
        "id": row["id"],
        "prompt_id": row["prompt_id"],
        "labeler": row["labeler"],
        "phase": row["phase"],
        "answer": row["answer"],
        "payload": row["payload"],
        "metadata": _metadata(row),
    }


def written_prompt_rows(
    id: str, answer: Mapping[str, Any], labeler: str, phase: Phase, metadata: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """A labeler's prompt as rows. Few-shot: K pairs give K prompts and demonstrations, each with the others as context."""
    common = {"kind": "prompt", "use_case": answer["use_case"], "source": "labeler", "user": labeler}
    if phase != "training":
        common["split"] = "test"  # a prompt has no phase
    if "turns" in answer:
        yield common | {"id": f"prompt-{id}", "turns": answer["turns"], "metadata": dict(metadata)}
        return
    if "pairs" not in answer:
        text = trimmed(answer["text"]) + "\n"
        yield common | {"id": f"prompt-{id}", "text": text, "metadata": dict(metadata)}
        return
    for number, pair in enumerate(answer["pairs"], start=1):
        others = [other for place, other in enumerate(answer["pairs"], start=1) if place != number]
        about = dict(metadata) | {"few_shot": id, "pair": number}
        text = few_shot_text(answer["instruction"], others, pair["query"])
        yield common | {"id": f"prompt-{id}-{number}", "text": text, "metadata": about}
        yield {
            "kind": "demonstration",
            "id": f"demonstration-{id}-{number}",
            "prompt_id": f"prompt-{id}-{number}",
            "text": response_text(turns_of(text), pair["response"]),
            "labeler": labeler,
            "phase": phase,
            "metadata": about,
        }


def few_shot_text(instruction_text: str, context: Iterable[Mapping[str, str]], query: str) -> str:
    """An instruction, query/response pairs as context, and the query that waits for its response."""
    shown = [f"Query: {trimmed(pair['query'])}\nResponse: {trimmed(pair['response'])}" for pair in context]
    return "\n\n".join([trimmed(instruction_text), *shown, f"Query: {trimmed(query)}\nResponse:"])


def _row(record: Any) -> dict[str, Any]:
    return {"kind": kind_of(record), **record_to_json(record)}


def _answers(
    connection: Connection,
    table: Table,
    *,
    phases: Sequence[Phase] = EXPORTED,
    batch_ids: Sequence[int] | None = None,
    surplus: bool,
) -> Iterator[RowMapping]:
    """Rows of an answer table joined with assignment, task and person, in the order in which they were answered."""
    columns: list[Any] = [column for column in table.c if column.name != "kind"]
    if table is annotation:
        columns += [table.c.kind.label("annotation_kind"), assignment.c.answer, task.c.payload]
    joined = (
        table.join(assignment, table.c.assignment_id == assignment.c.id)
        .join(task, assignment.c.task_id == task.c.id)
        .join(batch, task.c.batch_id == batch.c.id)
        .join(person, table.c.person_id == person.c.id)
        .outerjoin(instruction, assignment.c.instruction_id == instruction.c.id)
    )
    if table is demonstration:
        joined = joined.join(prompt, table.c.prompt_id == prompt.c.id)
        columns += [prompt.c.text.label("prompt_text"), prompt.c.turns.label("prompt_turns")]
    query: Select[*tuple[Any, ...]] = (
        select(
            *columns,
            person.c.pseudonym.label("labeler"),
            person.c.simulated,
            person.c.group_name,
            person.c.role,
            assignment.c.late,
            assignment.c.surplus,
            assignment.c.seconds_spent,
            task.c.phase,
            task.c.id.label("task_id"),
            batch.c.name.label("batch_name"),
            instruction.c.version,
        )
        .select_from(joined)
        .where(task.c.phase.in_(phases))
        .order_by(assignment.c.answered, assignment.c.id, table.c.id)
    )
    if batch_ids is not None:
        query = query.where(task.c.batch_id.in_(batch_ids))
    if not surplus:
        query = query.where(assignment.c.surplus.is_(False))
    yield from connection.execute(query, execution_options=_STREAM).mappings()


def _superseded(connection: Connection, phases: Sequence[Phase], secret: bytes) -> Iterator[dict[str, Any]]:
    """Answers that were corrected or sent back, as the rows of ``annotation_row``."""
    query = (
        select(
            superseded_answer,
            task.c.kind.label("annotation_kind"),
            task.c.prompt_id,
            task.c.payload,
            task.c.phase,
            task.c.id.label("task_id"),
            batch.c.name.label("batch_name"),
            person.c.id.label("person_id"),
            person.c.pseudonym.label("labeler"),
            person.c.simulated,
            person.c.group_name,
            person.c.role,
            instruction.c.version,
        )
        .select_from(
            superseded_answer.join(assignment, superseded_answer.c.assignment_id == assignment.c.id)
            .join(task, assignment.c.task_id == task.c.id)
            .join(batch, task.c.batch_id == batch.c.id)
            .join(person, assignment.c.person_id == person.c.id)
            .outerjoin(instruction, superseded_answer.c.instruction_id == instruction.c.id)
        )
        .where(task.c.phase.in_(phases))
        .order_by(superseded_answer.c.id)
    )
    for row in connection.execute(query, execution_options=_STREAM).mappings():
        coded = {"labeler": code_of(secret, row["person_id"], 0)} if row["phase"] == "screening" else {}
        yield {**row, **coded, "id": f"superseded-{row['id']}", "surplus": False}


def _metadata(row: Mapping[Any, Any]) -> dict[str, Any]:
    group = row["group_name"]
    if row["phase"] == "screening":  # the group at that time; the labeler may have joined the team since
        group = "candidate" if row["role"] == "labeler" else "researcher"
    found = {
        "task_id": row["task_id"],
        "batch": row["batch_name"],
        "group": group,
        "simulated": row["simulated"],
        "instruction_version": row["version"],
        "seconds_spent": row["seconds_spent"],
        "late": row["late"],
    }
    marks = {"surplus": True} if row["surplus"] else {}
    return found | marks | ({"superseded": row["superseded"]} if "superseded" in row else {})


def _named(connection: Connection, table: Table, phases: Sequence[Phase], surplus: bool) -> Iterator[RowMapping]:
    """Prompts, or responses, of tasks that were answered in these phases."""
    answered = assignment.join(task, assignment.c.task_id == task.c.id)
    wanted = [assignment.c.state == "answered", task.c.phase.in_(phases)]
    if not surplus:
        wanted.append(assignment.c.surplus.is_(False))
    if table is prompt:
        ids = select(task.c.prompt_id).select_from(answered)
    else:
        ids = select(task_response.c.response_id).select_from(
            answered.join(task_response, task_response.c.task_id == task.c.id)
        )
    query = select(table).where(table.c.id.in_(ids.where(*wanted))).order_by(table.c.id)
    yield from connection.execute(query, execution_options=_STREAM).mappings()
