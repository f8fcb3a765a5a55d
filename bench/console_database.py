"""A labeling database of any size with answers, made from a seed, to measure the console or look at it.

    python bench/console_database.py labels.sqlite --prompts 1000000 --tasks 200000

Rows are written in bulk, without the queue. Labelers judge by the outputs' hidden quality with noise, so that agreement is near
the paper's; one is careless; some tasks are gold; there are skips, late answers, running leases, questions, candidates,
surveys.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import time
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Table, insert

from heedful.labeling.database.connection import open_database
from heedful.labeling.database.tables import assignment, batch, event, person, prompt, response, task, task_response
from heedful.labeling.people import instruction_versions, problems, surveys
from heedful.labeling.queue.answer_rows import Answered, rows_of_answer
from heedful.labeling.queue.kinds import PROMPT_FLAGS
from heedful.records import RATING_FLAGS, USE_CASE_SHARES

DAY = 86_400.0
NOISE = 0.85
"""Noise of a labeler's judgement, in standard deviations of the outputs' quality; it gives about 73 % agreement."""
WORDS = re.findall(
    r"\w+",
    """river mountain letter answer garden question window story village summer winter teacher doctor market bridge music
    language history number silver orange morning evening travel recipe kitchen engine paper ocean forest planet reason write
    list explain summarize translate describe compare name give tell make find help short long polite funny formal""",
)
KINDS = (("rank", 0.6), ("demonstrate", 0.25), ("rate", 0.05), ("review_prompt", 0.1))
MODELS = ("sft-1", "ppo-1", "ppo-2", "base")
REASONS = ("unclear", "knowledge", "upsetting", "broken")


def build(
    where: str,
    *,
    num_prompts: int,
    num_tasks: int,
    share_answered: float = 0.5,
    days: int = 30,
    seed: int = 0,
    now: float | None = None,
) -> None:
    """Create the database; an existing one is refused at the first duplicate key."""
    draw, now = random.Random(seed), time.time() if now is None else now
    database = open_database(where)
    with database.write() as connection:
        people = _people(connection, now, days)
        instruction_versions.publish_first_versions(connection, now=now - days * DAY)
        first = instruction_versions.current(connection, "rank", "training")
        assert first is not None
        instruction_versions.publish(
            connection,
            "rank",
            "training",
            first.markdown
            + "\nWhere two outputs differ in nothing that matters to the user, **tie them**: a coin tossed by you is noise.\n",
            change_note="Tie outputs that do not differ in what matters.",
            author_id=2,
            now=now - 3 * DAY,
        )
        _many(connection, prompt, _prompts(draw, num_prompts, now - days * DAY))
    with database.write() as connection:
        _tasks(connection, draw, people, num_prompts, num_tasks, share_answered, now, days)
    with database.write() as connection:
        _screening(connection, draw, people, num_prompts, now)
        for number, (text, answer) in enumerate(
            (
                ("May I tie more than two outputs?", "Yes, as many as are equally good."),
                ("The prompt asks for a poem in Frisian, which I do not read. Skip?", None),
                ("What counts as a constraint: “be polite” too?", None),
            )
        ):
            asked = problems.ask(connection, people["training"][number], text, now=now - DAY)
            if answer:
                problems.answer(connection, asked, answer, answered_by=2, now=now - DAY / 2)
        for id in people["training"][:8]:
            given = {"clear": draw.choice(("Agree", "Strongly agree")), "enjoyable": draw.choice(("Agree", "Disagree"))}
            surveys.take(connection, id, "satisfaction", given)
        for id in people["training"][:3]:
            surveys.take(connection, id, "demographics", {"age": "25-34"})
    database.close()


def _people(connection: Connection, now: float, days: int) -> dict[str, list[int]]:
    groups = {"admin": 1, "researcher": 2, "training": 30, "held_out": 10, "candidate": 6}
    found: dict[str, list[int]] = {}
    number = 0
    for group, many in groups.items():
        found[group] = []
        for _ in range(many):
            number += 1
            role = group if group in ("admin", "researcher") else "labeler"
            connection.execute(
                insert(person).values(
                    id=number,
                    pseudonym=f"{group.replace('_', '-')}-{number:02d}",
                    name=f"Person {number}",
                    email=f"person{number}@example.org",
                    role=role,
                    group_name="training" if role != "labeler" else group,
                    simulated=False,
                    created=now - days * DAY,
                )
            )
            found[group].append(number)
    return found


def _text(draw: random.Random, words: int) -> str:
    return " ".join(draw.choices(WORDS, k=words)).capitalize() + "."


def _prompts(draw: random.Random, count: int, start: float) -> Iterator[dict[str, Any]]:
    cases, shares = list(USE_CASE_SHARES), list(USE_CASE_SHARES.values())
    for number in range(count):
        yield {
            "id": f"prompt-{number:07d}",
            "text": _text(draw, draw.randint(5, 40)) + (" A sesquipedalian word." if number == count // 3 else ""),
            "use_case": draw.choices(cases, shares)[0],
            "source": "customer" if draw.random() < 0.8 else "labeler",
            "owner": f"user-{draw.randrange(max(count // 50, 1))}",
            "split": draw.choices(("train", "valid", "test"), (8, 1, 1))[0],
            "language": "en",
            "details": {},
            "created": start + number // 10_000,  # imported in batches: many rows have the same time
        }


def _tasks(
    connection: Connection,
    draw: random.Random,
    people: dict[str, list[int]],
    num_prompts: int,
    num_tasks: int,
    share_answered: float,
    now: float,
    days: int,
) -> None:
    rows: dict[Table, list[dict[str, Any]]] = {}

    def add(table: Table, row: dict[str, Any]) -> None:
        rows.setdefault(table, []).append(row)

    def flush() -> None:
        for table in (response, task, task_response, assignment):
            _many(connection, table, rows.pop(table, []))
        for table in list(rows):
            _many(connection, table, rows.pop(table))

    batch_id = task_id = assignment_id = 0
    careless = people["training"][3]
    strict = {id: draw.gauss(0, 0.7) for ids in people.values() for id in ids}
    per_batch = max(num_tasks // 20, 40)
    plan = [(kind, phase) for kind, share in KINDS for phase in (["training"] * max(1, round(share * 18)))]
    plan += [("rate", "evaluation"), ("rank", "evaluation")]
    while task_id < num_tasks:
        kind, phase = plan[batch_id % len(plan)]
        batch_id += 1
        overlap = 3 if (kind in ("rank", "rate") and batch_id % 4 == 1) or phase == "evaluation" else 1
        connection.execute(
            insert(batch).values(
                id=batch_id, name=f"{kind.replace('_', ' ').capitalize()}, {phase}, part {batch_id}", kind=kind, phase=phase,
                overlap=overlap, priority=draw.choice((0, 0, 5)), lease_seconds=1800.0, created_by=2,
                created=now - days * DAY * (1 - batch_id / 30), closed=None,
            )
        )  # fmt: skip
        group = people["held_out"] if phase == "evaluation" else people["training"]
        done = min(1.0, max(0.0, share_answered * draw.uniform(0, 2)))
        for _ in range(min(per_batch, num_tasks - task_id)):
            task_id += 1
            prompt_id = f"prompt-{draw.randrange(num_prompts):07d}"
            ids: list[str] = []
            quality: dict[str, float] = {}
            if kind in ("rank", "rate"):
                for position in range(draw.randint(4, 6)):
                    ids.append(f"response-{task_id}-{position}")
                    model = draw.choice(MODELS)
                    quality[ids[-1]] = draw.gauss(MODELS.index(model) * -0.2, 1)
                    add(response, {
                        "id": ids[-1], "prompt_id": prompt_id, "text": _text(draw, draw.randint(3, 40)), "model": model,
                        "finished": True, "sampling": {"temperature": 1.0}, "created": now - days * DAY + task_id / 1000,
                    })  # fmt: skip
                    add(task_response, {"task_id": task_id, "position": position, "response_id": ids[-1]})
            gold = None
            if kind == "rank" and task_id % 50 == 0:
                gold = {"groups": [[id] for id in sorted(ids, key=lambda id: -quality[id])]}
            answered = 0
            workers = draw.sample(group, overlap)
            if draw.random() < done:
                for who in workers:
                    assignment_id += 1
                    at = now - draw.random() ** 2 * days * DAY
                    state = draw.choices(("answered", "skipped"), (97, 3))[0]
                    shown = draw.sample(ids, len(ids))
                    answer = _answer(draw, kind, shown, quality, strict[who], careless=who == careless)
                    seconds = (8 if who == careless else 30) * max(len(ids), 2) * math.exp(draw.gauss(0, 0.4))
                    add(assignment, {
                        "id": assignment_id, "task_id": task_id, "person_id": who, "token": f"{assignment_id:032x}",
                        "state": state, "shown_order": shown, "leased": at - seconds, "expires": at + 1800, "draft": None,
                        "draft_version": 0, "answer": answer if state == "answered" else None, "answered": at,
                        "late": draw.random() < 0.01, "surplus": False, "seconds_spent": seconds,
                        "skip_reason": draw.choice(REASONS) if state == "skipped" else None,
                    })  # fmt: skip
                    add(event, {
                        "at": at, "person_id": who, "action": "submit" if state == "answered" else "skip",
                        "subject": "assignment", "subject_id": str(assignment_id), "before": None, "after": None,
                    })  # fmt: skip
                    if state == "answered":
                        answered += 1
                        of = Answered(
                            assignment_id=assignment_id, token=f"{assignment_id:032x}", kind=kind,  # type: ignore[arg-type]
                            person_id=who, prompt_id=prompt_id, response_ids=ids, at=at,
                        )  # fmt: skip
                        for table, some in rows_of_answer(of, answer):
                            rows.setdefault(table, []).extend(some)
            elif task_id % 997 == 0:
                assignment_id += 1
                add(assignment, {
                    "id": assignment_id, "task_id": task_id, "person_id": workers[0], "token": f"{assignment_id:032x}",
                    "state": "leased", "shown_order": ids, "leased": now - 300, "expires": now + 86_400, "draft": None,
                    "draft_version": 0, "answer": None, "answered": None, "late": False, "surplus": False,
                    "seconds_spent": None, "skip_reason": None,
                })  # fmt: skip
            add(task, {
                "id": task_id, "batch_id": batch_id, "kind": kind, "phase": phase, "priority": 0, "prompt_id": prompt_id,
                "payload": {}, "gold": gold, "wanted": overlap, "held": answered, "answered": answered,
                "state": "done" if answered >= overlap else "set_aside" if task_id % 5_003 == 0 else "open",
                "shuffle": draw.random(), "created": now - days * DAY,
            })  # fmt: skip
            if task_id % 5_000 == 0:
                flush()
    flush()


def _answer(
    draw: random.Random, kind: str, shown: list[str], quality: dict[str, float], strict: float, *, careless: bool
) -> dict[str, Any]:
    if kind == "demonstrate":
        return {"text": _text(draw, draw.randint(10, 60))}
    if kind == "review_prompt":
        flags = {flag: draw.random() < 0.1 for flag in PROMPT_FLAGS}
        return {"use_case": draw.choice(list(USE_CASE_SHARES)), "flags": flags}
    felt = {id: quality[id] + draw.gauss(0, NOISE) for id in shown}
    if careless:
        felt = {id: -float(place) for place, id in enumerate(shown)}
    ratings = {
        id: {
            "overall": 5 if careless else min(7, max(1, round(4 + 1.2 * felt[id] - strict))),
            "flags": {
                flag: not careless and felt[id] < -1.2 - draw.random() and flag != "sexual_content" for flag in RATING_FLAGS
            },
        }
        for id in shown
    }
    if kind == "rate":
        return {"ratings": ratings}
    groups: list[list[str]] = []
    for id in sorted(shown, key=lambda id: -felt[id]):
        if groups and abs(felt[groups[-1][0]] - felt[id]) < 0.15:
            groups[-1].append(id)
        else:
            groups.append([id])
    return {"ratings": ratings, "groups": groups}


def _screening(connection: Connection, draw: random.Random, people: dict[str, list[int]], num_prompts: int, now: float) -> None:
    """Forty flags and ten rankings of each candidate, some demonstrations scored, topics."""
    from heedful.labeling.queue.items import NewTask, add_tasks, make_batch

    def work(kind: str, tasks: list[NewTask], answers: Any, workers: list[int]) -> None:
        own_batch = make_batch(
            connection, name=f"Screening: {kind.replace('_', ' ')}", kind=kind, phase="screening",  # type: ignore[arg-type]
            overlap=len(workers), created_by=2, now=now - DAY,
        )  # fmt: skip
        ids = add_tasks(connection, own_batch, tasks, seed=0, now=now - DAY)
        connection.execute(
            task.update().where(task.c.id.in_(ids)).values(held=len(workers), answered=len(workers), state="done")
        )
        for task_id, new in zip(ids, tasks, strict=True):
            for who in workers:
                shown = draw.sample(list(new.response_ids), len(new.response_ids))
                answer = answers(who, new, shown)
                token = f"{draw.getrandbits(128):032x}"
                made = connection.execute(
                    insert(assignment).values(
                        task_id=task_id, person_id=who, token=token, state="answered", shown_order=shown, leased=now - 5000,
                        expires=now, answer=answer, answered=now - draw.random() * 4000, seconds_spent=20.0,
                    )
                )  # fmt: skip
                of = Answered(
                    assignment_id=made.inserted_primary_key[0], token=token, kind=kind, person_id=who,  # type: ignore[index,arg-type]
                    prompt_id=new.prompt_id, response_ids=new.response_ids, at=now - 4000,
                )  # fmt: skip
                for table, some in rows_of_answer(of, answer):
                    connection.execute(insert(table), some)

    candidates = people["candidate"]
    skill = {who: 0.6 + 0.07 * place for place, who in enumerate(candidates)}
    prompts = [f"prompt-{number:07d}" for number in range(min(num_prompts, 60))]
    flags = [NewTask(prompt_id=id, gold={"sensitive": draw.random() < 0.5}) for id in prompts[:40]]
    work(
        "flag_sensitive",
        flags,
        lambda who, new, shown: {"sensitive": new.gold["sensitive"] == (draw.random() < skill[who])},
        candidates,
    )
    rankings: list[NewTask] = []
    quality: dict[str, float] = {}
    for place, prompt_id in enumerate(prompts[40:60]):
        ids = [f"screening-{place}-{k}" for k in range(5)]
        for k, id in enumerate(ids):
            quality[id] = float(-k)
            connection.execute(
                insert(response).values(
                    id=id,
                    prompt_id=prompt_id,
                    text=_text(draw, 20),
                    model="sft-1",
                    finished=True,
                    sampling={},
                    created=now - DAY,
                )
            )
        rankings.append(NewTask(prompt_id=prompt_id, response_ids=ids, gold={"groups": [[id] for id in ids]}))
    work(
        "rank",
        rankings,
        lambda who, new, shown: _answer(
            draw, "rank", shown, {id: (1.4 if skill[who] > 0.75 else 0.3) * quality[id] for id in shown}, 0.0, careless=False
        ),
        candidates,
    )
    work("demonstrate", [NewTask(prompt_id=id) for id in prompts[:3]], lambda *_: {"text": _text(draw, 40)}, candidates)
    topics = ["religion", "gender", "disability", "migration", "politics", "health"]
    work(
        "self_assess",
        [NewTask(payload={"topics": topics})],
        lambda who, *_: {"topics": [topic for topic in topics if draw.random() < 0.5]},
        candidates,
    )


def _many(connection: Connection, table: Table, rows: Any) -> None:
    some: list[dict[str, Any]] = []
    for row in rows:
        some.append(row)
        if len(some) == 5_000:
            connection.execute(insert(table), some)
            some = []
    if some:
        connection.execute(insert(table), some)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("where")
    parser.add_argument("--prompts", type=int, default=1_000_000)
    parser.add_argument("--tasks", type=int, default=200_000)
    given = parser.parse_args()
    started = time.monotonic()
    build(given.where, num_prompts=given.prompts, num_tasks=given.tasks)
    print(f"made in {time.monotonic() - started:.0f} s")
