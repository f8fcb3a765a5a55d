"""A small world to label in: people, a prompt with outputs, tasks; and whole answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, func, insert, select

from heedful.conversation import turns_of
from heedful.labeling.database.tables import assignment, person, task
from heedful.labeling.queue import items
from heedful.labeling.queue.assignments import AssignmentView
from heedful.labeling.queue.kinds import PROMPT_FLAGS, Phase, TaskKind
from heedful.records import RATING_FLAGS, Prompt, Response


def add_person(
    connection: Connection, pseudonym: str, *, group: str = "training", role: str = "labeler", daily_limit: int | None = None
) -> int:
    values = {"pseudonym": pseudonym, "name": pseudonym.title(), "role": role, "group_name": group, "created": 0.0}
    added = insert(person).values(**values, daily_limit=daily_limit).returning(person.c.id)
    return connection.execute(added).scalar_one()


def add_ranking_tasks(
    connection: Connection,
    count: int,
    *,
    kind: TaskKind = "rank",
    phase: Phase = "training",
    outputs: int = 4,
    wanted: int = 1,
    name: str = "first",
    lease_seconds: float = 100.0,
    **rules: Any,
) -> list[int]:
    """Tasks about prompts of their own, with outputs where the kind has them."""
    batch_id = items.make_batch(
        connection, name=name, kind=kind, phase=phase, overlap=wanted, lease_seconds=lease_seconds, **rules
    )
    ids = [f"{name}-{number}" for number in range(count)]
    items.add_prompts(connection, [Prompt(id=id, turns=turns_of(f"Question {id}?")) for id in ids])
    new = [items.NewTask(prompt_id=id) for id in ids]
    if kind in ("rank", "rate", "toxicity"):
        shown = {id: [f"{id}-{letter}" for letter in "abcdefghi"[:outputs]] for id in ids}
        responses = [Response(id=r, prompt_id=id, text=f"Text {r}", model="secret-model") for id in ids for r in shown[id]]
        items.add_responses(connection, responses)
        new = [items.NewTask(prompt_id=id, response_ids=shown[id]) for id in ids]
    return items.add_tasks(connection, batch_id, new, seed=0)


def rank_answer(response_ids: Sequence[str], *, overall: int = 4) -> dict[str, Any]:
    """The first is best, the second and third are tied, the others follow."""
    first, *rest = sorted(response_ids)
    groups = [[first], rest[:2], *([id] for id in rest[2:])]
    ratings = {id: {"overall": overall, "flags": dict.fromkeys(RATING_FLAGS, False)} for id in response_ids}
    return {"ratings": ratings, "groups": [group for group in groups if group]}


def answer_for(view: AssignmentView) -> dict[str, Any]:
    """A whole answer to any kind of task."""
    ids = [output.id for output in view.outputs]
    match view.kind:
        case "rank":
            return rank_answer(ids)
        case "rate":
            return {"ratings": rank_answer(ids)["ratings"]}
        case "demonstrate":
            return {"text": f"My answer to {view.task_id}"}
        case "review_prompt":
            return {"use_case": "open_qa", "flags": dict.fromkeys(PROMPT_FLAGS, False)}
        case "review_personal_data":
            return {"personal_data": False, "note": ""}
        case "toxicity":
            labels = {id: {"toxicity": 0, "relative_toxicity": -1, "continuity": 7} for id in ids}
            return {"labels": labels, "groups": [ids]}
        case "flag_sensitive":
            return {"sensitive": True}
        case "score_demonstration":
            return {"score": 6}
        case "self_assess":
            return {"topics": view.payload["topics"][:1]}
        case "write_prompt":
            if view.payload.get("style") == "few_shot":
                pairs = [{"query": f"q{i}", "response": f"r{i}"} for i in range(3)]
                return {"instruction": "Translate.", "pairs": pairs, "use_case": "rewrite"}
            return {"text": "Write a poem.", "use_case": "generation"}


def count_broken(connection: Connection) -> list[str]:
    """The queue's invariants that do not hold now."""
    rows = connection.execute(select(assignment.c.task_id, assignment.c.state, assignment.c.late, assignment.c.surplus))
    of: dict[int, list[Any]] = {}
    for row in rows:
        of.setdefault(row.task_id, []).append(row)
    broken: list[str] = []
    for found in connection.execute(select(task)):
        mine = of.get(found.id, [])
        running = sum(row.state == "leased" for row in mine)
        answers = sum(row.state == "answered" and not row.surplus for row in mine)
        if running + answers > found.wanted:
            broken.append(f"task {found.id}: {running} leases and {answers} answers that count, {found.wanted} wanted")
        if (found.held, found.answered) != (running + answers, answers):
            broken.append(f"task {found.id}: held {found.held}, answered {found.answered}; {running} leases, {answers} answers")
        if (found.state == "open" and answers >= found.wanted) or (found.state == "done" and answers < found.wanted):
            broken.append(f"task {found.id} is {found.state} with {answers} answers of {found.wanted}")
    return broken


def number_of(connection: Connection, table: Any) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()
