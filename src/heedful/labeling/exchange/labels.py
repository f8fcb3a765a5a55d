"""Between the database and a project's records: prompts, outputs and tasks go in, answers come out (JSONL; SPEC 1, 2).

What is exported, and how ``heedful align`` takes it:

- the labeler is the pseudonym; ids are those of the stored rows, so a second export adds nothing;
- answers of the phase training are for training; those of the phase evaluation carry ``metadata["task"] == "evaluation"`` and
  are never trained on; screening is not exported, nor is what candidates answered;
- late answers are exported and marked ``late``; surplus ones (others had answered enough, or the task was withdrawn) only where
  asked for, marked ``surplus``;
- ``metadata`` also has the instruction version, the seconds spent, the group, and whether the labeler is simulated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, Table, exists, func, select

from heedful.conversation import response_text, turns_of
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
    task,
    task_response,
)
from heedful.labeling.exchange.label_records import demonstration_of, ranking_of, rating_of, record_of
from heedful.labeling.queue import items
from heedful.labeling.queue.kinds import Phase, TaskKind
from heedful.project.data_folder import file_name, kind_of, record_from_json, record_to_json
from heedful.project.files import read_jsonl
from heedful.project.project import Project
from heedful.records import Demonstration, Ranking, Rating, Split

EXPORTED: tuple[Phase, ...] = ("training", "evaluation")
_TASK_OF: Mapping[str, str] = {"training": "ranking", "evaluation": "evaluation", "screening": "screening"}
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
    """Bring a project in: its prompts and responses, and tasks of those that ``heedful align`` left in ``tasks/``.

    ``demonstrations``: also make this many tasks to demonstrate train prompts that nobody has demonstrated. What is there is
    not added again. Raises DataError naming file and line for a broken row or an id that is taken by another text.
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
    """Ids of prompts of which there is no task of this kind and phase, in the order of their ids."""
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
        yield record_from_json(kind, row, where=f"{path}:{line}")


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    yield from read_jsonl(path) if path.is_file() else ()


# ---------------------------------------------------------------------------------------------------- out of the database


def stored_demonstrations(
    connection: Connection, *, batch_ids: Sequence[int] | None = None, surplus: bool = False
) -> Iterator[Demonstration]:
    """Demonstrations as records, the oldest first, with who, how and when in ``metadata``; each continues its prompt."""
    for row in _answers(connection, demonstration, batch_ids, surplus):
        yield demonstration_of(row, _metadata(row))


def stored_rankings(
    connection: Connection, *, batch_ids: Sequence[int] | None = None, surplus: bool = False
) -> Iterator[Ranking]:
    """Rankings as records, the oldest first."""
    for row in _answers(connection, ranking, batch_ids, surplus):
        yield ranking_of(row, _metadata(row))


def stored_ratings(
    connection: Connection, *, batch_ids: Sequence[int] | None = None, surplus: bool = False
) -> Iterator[Rating]:
    """Ratings as records, the oldest first."""
    for row in _answers(connection, rating, batch_ids, surplus):
        yield rating_of(row, _metadata(row))


def exported_records(connection: Connection, *, surplus: bool = False) -> Iterator[dict[str, Any]]:
    """Every record that answers make, and the prompts and responses they name, as rows for ``heedful import heedful``.

    Dependencies first; streamed: as many answers as there are. A labeler's prompt has no split: the import gives one by owner.
    """
    answered = {"prompt": _named(connection, prompt, surplus), "response": _named(connection, response, surplus)}
    kinds: tuple[Kind, ...] = ("prompt", "response")
    for kind in kinds:
        for row in answered[kind]:
            yield {"kind": kind, **record_of(kind, row)}
    for row in _answers(connection, annotation, None, surplus):
        if row["annotation_kind"] == "write_prompt":
            yield from written_prompt_rows(row["id"], row["value"], row["labeler"], _metadata(row))
    for record in stored_demonstrations(connection, surplus=surplus):
        yield _row(record)
    for record in stored_rankings(connection, surplus=surplus):
        yield _row(record)
    for record in stored_ratings(connection, surplus=surplus):
        yield _row(record)


def written_prompt_rows(
    id: str, answer: Mapping[str, Any], labeler: str, metadata: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """A labeler's prompt as rows. Few-shot: K pairs make K prompts and demonstrations, each in the context of the others."""
    common = {"kind": "prompt", "use_case": answer["use_case"], "source": "labeler", "user": labeler}
    if "pairs" not in answer:
        yield common | {"id": f"prompt-{id}", "text": answer["text"].strip() + "\n", "metadata": dict(metadata)}
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
            "metadata": about,
        }


def few_shot_text(instruction_text: str, context: Iterable[Mapping[str, str]], query: str) -> str:
    """An instruction, query/response pairs as context, and the query that waits for its response."""
    shown = [f"Query: {pair['query'].strip()}\nResponse: {pair['response'].strip()}" for pair in context]
    return "\n\n".join([instruction_text.strip(), *shown, f"Query: {query.strip()}\nResponse:"])


def _row(record: Any) -> dict[str, Any]:
    return {"kind": kind_of(record), **record_to_json(record)}


def _answers(connection: Connection, table: Table, batch_ids: Sequence[int] | None, surplus: bool) -> Iterator[RowMapping]:
    """Rows of an answer table with their assignment's, task's and person's, in the order in which they were answered."""
    columns = [column for column in table.c if column.name != "kind"]
    columns += [table.c.kind.label("annotation_kind")] if "kind" in table.c else []
    joined = (
        table.join(assignment, table.c.assignment_id == assignment.c.id)
        .join(task, assignment.c.task_id == task.c.id)
        .join(batch, task.c.batch_id == batch.c.id)
        .join(person, table.c.person_id == person.c.id)
        .outerjoin(instruction, assignment.c.instruction_id == instruction.c.id)
    )
    if table is demonstration:
        joined = joined.join(prompt, table.c.prompt_id == prompt.c.id)
        columns.append(prompt.c.text.label("prompt_text"))
    query: Select[Any] = (
        select(
            *columns,
            person.c.pseudonym.label("labeler"),
            person.c.simulated,
            person.c.group_name,
            assignment.c.late,
            assignment.c.surplus,
            assignment.c.seconds_spent,
            task.c.phase,
            task.c.id.label("task_id"),
            batch.c.name.label("batch_name"),
            instruction.c.version,
        )
        .select_from(joined)
        .where(task.c.phase.in_(EXPORTED))
        .order_by(assignment.c.answered, assignment.c.id, table.c.id)
    )
    if batch_ids is not None:
        query = query.where(task.c.batch_id.in_(batch_ids))
    if not surplus:
        query = query.where(assignment.c.surplus.is_(False))
    yield from connection.execute(query, execution_options=_STREAM).mappings()


def _metadata(row: RowMapping) -> dict[str, Any]:
    found = {
        "task": _TASK_OF[row["phase"]],
        "task_id": row["task_id"],
        "batch": row["batch_name"],
        "group": row["group_name"],
        "simulated": row["simulated"],
        "instruction_version": row["version"],
        "seconds_spent": row["seconds_spent"],
        "late": row["late"],
    }
    return found | ({"surplus": True} if row["surplus"] else {})


def _named(connection: Connection, table: Table, surplus: bool) -> Iterator[RowMapping]:
    """Prompts, or responses, of tasks that were answered in the exported phases."""
    answered = assignment.join(task, assignment.c.task_id == task.c.id)
    wanted = [assignment.c.state == "answered", task.c.phase.in_(EXPORTED)]
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
