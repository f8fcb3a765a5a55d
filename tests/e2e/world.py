"""A database with everything in it that a page can show, and where each page is that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from bench.console_database import build
from sqlalchemy import Connection, select
from tests.labeling.usage.talk import ALPHA, BETA, a_key, answer_all, begin, compare
from tests.web.work import HOSTILE, OUTPUTS, add_tasks

from heedful.labeling.database.connection import Database
from heedful.labeling.database.tables import assignment, batch, person, prompt
from heedful.labeling.people import accounts, instruction_versions, problems, sessions
from heedful.labeling.queue import leases
from heedful.labeling.queue.kinds import TaskKind
from heedful.labeling.usage import admission, blind_votes, consent, conversations, feedback
from heedful.labeling.usage.admission import Outcome
from heedful.web.app import create_app
from heedful.web.app_settings import Settings

ROLE_OF_KIND: Mapping[TaskKind, str] = {
    "write_prompt": "labeler",
    "demonstrate": "labeler",
    "rank": "labeler",
    "rate": "held_out",
    "review_prompt": "labeler",
    "review_personal_data": "labeler",
    "toxicity": "held_out",
    "flag_sensitive": "candidate",
    "self_assess": "candidate",
    "score_demonstration": "researcher",
}
"""Who works on tasks of each kind: a role, or a labeler's group."""


def routes() -> dict[str, Any]:
    """Path to route, of every GET route of the application."""
    app = create_app(cast("Database", None), Settings(key=b"", public_url="", secure=False))
    return {route.path: route for route in app.routes if "GET" in getattr(route, "methods", ())}  # type: ignore[attr-defined]


def fill(where: str, database: Database, *, num_prompts: int, num_tasks: int) -> dict[str, int]:
    """A filled database; who there is: role or group to a person's id."""
    build(where, num_prompts=num_prompts, num_tasks=num_tasks)
    return who_there_is(database)


def who_there_is(database: Database) -> dict[str, int]:
    """Role or group to the first such person's id."""
    who: dict[str, int] = {}
    with database.read() as connection:
        for row in connection.execute(select(person.c.id, person.c.role, person.c.group_name).order_by(person.c.id)):
            who.setdefault(row.role, row.id)
            if row.role == "labeler":
                who.setdefault(row.group_name, row.id)
    who["labeler"] = who["training"]
    if "user" not in who:
        with database.write() as connection:
            who["user"] = accounts.add_person(
                connection, name=f"Ulla {HOSTILE}", email="ulla@example.org", role="user", group="training"
            )
    return who


def examples(database: Database, who: Mapping[str, int]) -> dict[str, list[tuple[str, str]]]:
    """Route to (who, path): where to see what it shows, more than one where it shows different things."""
    work: list[tuple[str, str]] = []
    for kind, worker in ROLE_OF_KIND.items():
        batch_id = add_tasks(database, kind, count=2, num_outputs=7, outputs=OUTPUTS, overlap=2)
        with database.write() as connection:
            view = leases.claim(connection, who[worker], kind=kind, batch_id=batch_id)
        assert view is not None, f"no {kind} for {worker}"
        work.append((worker, f"/tasks/{view.id}"))
        if kind == "rank":
            compare = f"/tasks/{view.id}/compare"
            ranked = view.task_id
    skips = add_tasks(database, "review_prompt")
    few_shot = {"style": "few_shot", "use_case": "chat", "application": "A game"}
    batch_id = add_tasks(database, "write_prompt", payload=few_shot)
    with database.write() as connection:
        view = leases.claim(connection, who["labeler"], kind="write_prompt", batch_id=batch_id)
        assert view is not None
        work.append(("labeler", f"/tasks/{view.id}"))
        mine = assignment.c.person_id == who["labeler"], assignment.c.state == "answered"
        done = connection.execute(select(assignment.c.id).where(*mine).limit(1)).scalar_one()
        skipped = leases.claim(connection, who["labeler"], kind="review_prompt", batch_id=skips)
        assert skipped is not None
        leases.skip(connection, skipped.id, who["labeler"], token=skipped.token, reason=f"Unclear. {HOSTILE}")
        work += [("labeler", f"/tasks/{done}"), ("labeler", f"/tasks/{skipped.id}")]
        asked = problems.ask(connection, who["labeler"], f"What is a whale? {HOSTILE}", task_id=ranked)
        problems.answer(connection, asked, f"A mammal. {HOSTILE}", answered_by=who["researcher"])
        admin = who["admin"]
        join = accounts.invite_to_join(connection, role="labeler", group="training", created_by=admin)
        reset = accounts.reset_password_token(connection, who["held_out"], by=admin)
        current = instruction_versions.current(connection, "rank", "training")
        assert current is not None
        some_batch = connection.execute(select(batch.c.id).where(batch.c.kind == "rank").limit(1)).scalar_one()
        some_prompt = _an_answered_prompt(connection)
        talks, shared = _conversations(connection, who["labeler"])
        key_id, secret = a_key(connection, who["labeler"], name=f"Tests {HOSTILE[:80]}")
    admitted = admission.admit(database, secret, "chat")
    asked = [{"role": "user", "content": HOSTILE}]
    outcome = Outcome(status=200, model="m", request=asked, response=[HOSTILE], flags=["personal data: email"])
    admission.finish(database, admitted, outcome)
    return {
        "/": [("labeler", "/"), ("held_out", "/"), ("candidate", "/")],
        "/your-data": [("labeler", "/your-data"), ("user", "/your-data"), ("held_out", "/your-data")],
        "/api/v1/conversations/{conversation_id}": [("labeler", f"/api/v1/conversations/{talks[0]}")],
        "/api/v1/shared/{token}": [("public", f"/api/v1/shared/{shared}")],
        "/playground": [
            ("user", "/playground"),
            ("labeler", "/playground"),
            ("held_out", "/playground"),
            ("labeler", "/playground?use_case=chat"),
        ],
        "/playground/{conversation_id}": [("labeler", f"/playground/{number}") for number in talks],
        "/playground/shared/{token}": [("public", f"/playground/shared/{shared}")],
        "/keys": [("labeler", "/keys"), ("held_out", "/keys")],
        "/keys/{key_id}": [("labeler", f"/keys/{key_id}")],
        "/login": [("public", "/login"), ("public", "/login?next=/history")],
        "/join/{token}": [("public", f"/join/{join}"), ("public", "/join/nothing")],
        "/reset/{token}": [("public", f"/reset/{reset}")],
        "/history": [("labeler", "/history")],
        "/instructions/{kind}/{phase}": [
            ("labeler", "/instructions/rank/training"),
            ("held_out", "/instructions/rate/evaluation"),
        ],
        "/surveys/{name}": [("candidate", "/surveys/demographics"), ("labeler", "/surveys/satisfaction")],
        "/tasks/{assignment_id}": work,
        "/tasks/{assignment_id}/compare": [("labeler", f"{compare}?first=A&second=B"), ("labeler", compare)],
        "/console/batches/{batch_id}": [("researcher", f"/console/batches/{some_batch}")],
        "/console/instructions/{phase}/{kind}": [("researcher", "/console/instructions/training/rank")],
        "/console/instructions/{phase}/{kind}/{version}": [
            ("researcher", f"/console/instructions/training/rank/{number}") for number in range(1, current.version + 1)
        ],
        "/console/data": [
            ("researcher", "/console/data"),
            ("researcher", "/console/data?kind=ranking"),
            ("researcher", "/console/data?kind=rating"),
            ("researcher", "/console/data?kind=demonstration"),
            ("researcher", "/console/data?text=river"),
            ("researcher", "/console/data?text=sesquipedalian"),  # one prompt has it ...
            ("researcher", "/console/data?text=in+none+of+them"),  # ... and this none
            ("researcher", "/console/data?kind=ranking&text=in+none+of+them"),
            ("researcher", "/console/data?use_case=chat&source=labeler&split=test"),
        ],
        "/console/questions": [("researcher", "/console/questions"), ("researcher", "/console/questions?show=all")],
        "/console/prompts/{prompt_id:path}": [("researcher", f"/console/prompts/{some_prompt}")],
        "/batches/new/{kind}": [("researcher", f"/batches/new/{kind}") for kind in ROLE_OF_KIND],
        "/batches/{batch_id}": [("researcher", f"/batches/{some_batch}")],
        "/batches/{batch_id}/more": [("researcher", f"/batches/{some_batch}/more")],
        "/admin/people/{person_id}": [("admin", f"/admin/people/{who['labeler']}")],
        "/api/v1/assignments/{assignment_id}": [("labeler", f"/api/v1/assignments/{view.id}")],
        "/api/v1/batches/{batch_id}": [("researcher", f"/api/v1/batches/{some_batch}")],
        "/static/{version}/{name:path}": [("public", "/static/0/style.css")],
    }


def _conversations(connection: Connection, person_id: int) -> tuple[list[int], str]:
    """Conversations in every state, and the token of a shared one."""
    waiting = begin(connection, person_id, HOSTILE, models=("endless",))
    open_vote = compare(connection, person_id, HOSTILE, "The Nile.")
    voted = compare(connection, person_id, "I am alpha-7b.", "", system="Be brief.", use_case="chat")
    blind_votes.vote(connection, voted.turns[0].id, person_id, choice="answer", position=1)
    ranking = begin(connection, person_id, layout="rank", models=(ALPHA, BETA), num_answers=5)
    answer_all(connection, ranking, *"ABCDE")
    single = answer_all(connection, begin(connection, person_id, "Mail anna@example.org", training=False), HOSTILE)
    feedback.keep(connection, single.turns[0].answers[0].id, person_id, kind="critique", text=HOSTILE)
    failed = answer_all(connection, begin(connection, person_id), "", state="failed")
    conversations.share(connection, voted.id, person_id, shared=True)
    consent.withdraw_turn(connection, open_vote.turns[0].id, person_id)
    token = conversations.own(connection, voted.id, person_id).share_token
    assert token is not None
    return [one.id for one in (waiting, open_vote, voted, ranking, single, failed)], token


def _an_answered_prompt(connection: Connection) -> str:
    from heedful.labeling.database.tables import ranking

    return connection.execute(select(prompt.c.id).join(ranking, ranking.c.prompt_id == prompt.c.id).limit(1)).scalar_one()


def cookie(database: Database, person_id: int) -> str:
    """A session of somebody's, as the cookie that holds it."""
    with database.write() as connection:
        return sessions.start(connection, person_id).token
