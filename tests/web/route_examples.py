"""One example of each route that takes something: what the permission test (test_permissions.py) sends.

The key is "METHOD path" as the route says it. A route with a parameter in its path, and every route that changes something,
needs an entry: who adds a route adds one here, or the test fails. Parameters of the path come from ``World.parameters`` (what
belongs to the labeler ``owner``) unless the example gives its own.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import update
from tests.labeling.usage.talk import ALPHA, BETA, a_key, answer_all, begin
from tests.web.site import PASSWORD
from tests.web.world import XSS, World

from heedful.labeling.database.usage_tables import conversation
from heedful.labeling.people import instruction_versions, problems
from heedful.labeling.quality import candidate_screening
from heedful.labeling.queue import leases
from heedful.labeling.usage import admission, blind_votes, conversations, feedback
from heedful.labeling.usage.admission import Outcome
from heedful.records import RATING_FLAGS
from heedful.web.console.round_process import RoundProcess


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """What to send so that the route does its work."""

    fields: Callable[[World], Mapping[str, Any]] | None = None
    """Fields of a form."""
    json: Callable[[World], Any] | None = None
    """A JSON body."""
    path: Callable[[World], Mapping[str, Any]] = field(default=lambda world: {})
    """Parameters of the path, where they are not ``World.parameters``."""
    owned: bool = False
    """The object is one labeler's: anybody else gets 404, whatever their role."""
    prepare: Callable[[World], None] | None = None
    """What must have happened before."""


def a_ranking(world: World) -> dict[str, Any]:
    """A whole answer to the owner's ranking."""
    flags = dict.fromkeys(RATING_FLAGS, False)
    first, *rest = world.response_ids
    return {"ratings": {id: {"overall": 4, "flags": flags} for id in world.response_ids}, "groups": [[first], rest]}


def a_ranking_form(world: World) -> dict[str, str]:
    """The same as a form."""
    shown = "ABCD"[: len(world.response_ids)]
    fields = {f"{letter}.overall": "4" for letter in shown} | {f"{letter}.group": "2" for letter in shown} | {"A.group": "1"}
    return fields | {"_token": world.token}


def without_training(world: World) -> None:
    """A round is started, but the process that would train has nothing to do."""

    class Started(RoundProcess):
        def start(self, number: int) -> None:
            assert number == 1

    world.site.app.state.round_process = Started(world.site.app.state.round_process.project)


def answer_the_task(world: World) -> None:
    """The owner answers their ranking."""
    with world.site.database.write() as connection:
        number = world.parameters["assignment_id"]
        answer = a_ranking(world)
        leases.submit(connection, number, world.owner, token=world.token, answer=answer, seconds_spent=None)


def publish_instructions(world: World) -> None:
    """The instructions that ship, and a second version of those for ranking."""
    with world.site.database.write() as connection:
        instruction_versions.publish_first_versions(connection)
        second = f"# Rank\n\n{XSS}"
        instruction_versions.publish(connection, "rank", "training", second, change_note=XSS, author_id=world.researcher)


def ask_and_answer(world: World) -> None:
    """A question of the owner with the researchers' answer."""
    with world.site.database.write() as connection:
        number = problems.ask(connection, world.owner, XSS)
        problems.answer(connection, number, XSS, answered_by=world.researcher)


def _account(_: World) -> dict[str, str]:
    return {"name": "New", "email": "new@example.org", "password": PASSWORD, "password_again": PASSWORD}


def _a_question(world: World) -> None:
    with world.site.database.write() as connection:
        problems.ask(connection, world.owner, f"Why {XSS}")


def _a_version(world: World) -> None:
    with world.site.database.write() as connection:
        if instruction_versions.current(connection, "rank", "training") is None:
            instruction_versions.publish(connection, "rank", "training", f"Do {XSS}", change_note=XSS, author_id=None)


def _a_candidate(world: World) -> None:
    world.site.person("labeler", "candidate", name="Cara")


def _code(world: World) -> str:
    """Of the candidate; anything once there is none."""
    secret = hmac.digest(b"k" * 32, b"screening codes", hashlib.sha256)
    with world.site.database.read() as connection:
        records = candidate_screening.screening(connection, secret).records
    return records[0].candidate if records else "BCDFGHJK"


def _batch(_: World) -> dict[str, str]:
    return {
        "name": "More",
        "phase": "evaluation",
        "tasks": "3",
        "overlap": "2",
        "smallest_k": "2",
        "largest_k": "3",
        "fresh": "yes",
    }


def _a_backup(world: World) -> None:
    folder = world.site.app.state.settings.backups
    folder.mkdir(exist_ok=True)
    (folder / "labels-20260101-000000.sqlite").write_bytes(b"x")


def _conversation(world: World, layout: str, **more: Any) -> None:
    models = (ALPHA, BETA) if layout == "compare" else (ALPHA,)
    with world.site.database.write() as connection:
        view = begin(connection, world.owner, f"Name a river. {XSS}", layout=layout, models=models, **more)
        answer_all(connection, view, f"The Rhine. {XSS}", f"The Nile. {XSS}")
        feedback.keep(connection, view.turns[0].answers[0].id, world.owner, kind="critique", text=XSS)
        conversations.share(connection, view.id, world.owner, shared=True)
        connection.execute(update(conversation).values(share_token="shared"))


def _a_comparison(world: World) -> None:
    _conversation(world, "compare")


def _a_ranking(world: World) -> None:
    _conversation(world, "rank", num_answers=4)


def _a_single_answer(world: World) -> None:
    _conversation(world, "single")


def _a_vote(world: World) -> None:
    _a_comparison(world)
    with world.site.database.write() as connection:
        blind_votes.vote(connection, 1, world.owner, choice="tie", position=None)


def _a_question_to_a_model(world: World) -> None:
    with world.site.database.write() as connection:
        begin(connection, world.owner, XSS)


def _an_api_key(world: World) -> None:
    with world.site.database.write() as connection:
        _, secret = a_key(connection, world.owner, name=f"Key {XSS[:90]}")
    admitted = admission.admit(world.site.database, secret, "chat")
    asked = [{"role": "user", "content": XSS}]
    admission.finish(world.site.database, admitted, Outcome(status=200, model=XSS, flags=[XSS], request=asked, response=[XSS]))


PLAYGROUND: Mapping[str, Any] = {"conversation_id": 1, "turn_id": 1, "answer_id": 1}
KEY: Mapping[str, Any] = {"key_id": 1, "request_id": 1}


def _of_playground(prepare: Callable[[World], None] = _a_comparison, **fields: Any) -> Example:
    return Example(owned=True, path=lambda w: PLAYGROUND, prepare=prepare, fields=lambda w: fields)


def _by_api(body: Any, prepare: Callable[[World], None] = _a_comparison) -> Example:
    return Example(owned=True, path=lambda w: PLAYGROUND, prepare=prepare, json=lambda w: body)


def _of_key(**fields: Any) -> Example:
    return Example(owned=True, path=lambda w: KEY, prepare=_an_api_key, fields=lambda w: fields)


EXAMPLES: Mapping[str, Example] = {
    # ------------------------------------------------------------------------------------ the playground
    "POST /playground": Example(fields=lambda w: {"model": ALPHA, "text": "Name a river.", "layout": "single"}),
    "GET /playground/shared/{token}": Example(path=lambda w: {"token": "shared"}, prepare=_a_comparison),
    "GET /playground/{conversation_id}": _of_playground(),
    "POST /playground/{conversation_id}/turns": _of_playground(_a_single_answer, text="More"),
    "POST /playground/{conversation_id}/share": _of_playground(do="share"),
    "POST /playground/{conversation_id}/withdraw": _of_playground(),
    "POST /playground/{conversation_id}/delete": _of_playground(),
    "POST /playground/turns/{turn_id}/withdraw": _of_playground(),
    "POST /playground/turns/{turn_id}/vote": _of_playground(vote="tie"),
    "POST /playground/turns/{turn_id}/rank": _of_playground(_a_ranking),
    "POST /playground/answers/{answer_id}/feedback": _of_playground(kind="edit", text="Better"),
    "POST /playground/answers/{answer_id}/stream": _of_playground(_a_question_to_a_model),
    # ------------------------------------------------------------------------------------ the same by the JSON API
    "POST /api/v1/conversations": Example(json=lambda w: {"models": [ALPHA], "text": "Name a river.", "training": True}),
    "GET /api/v1/conversations/{conversation_id}": _of_playground(),
    "DELETE /api/v1/conversations/{conversation_id}": _by_api(None),
    "POST /api/v1/conversations/{conversation_id}/turns": _by_api({"text": "More", "training": False}, _a_single_answer),
    "POST /api/v1/conversations/{conversation_id}/share": _by_api({"shared": True}),
    "POST /api/v1/conversations/{conversation_id}/withdraw": _by_api(None),
    "POST /api/v1/turns/{turn_id}/withdraw": _by_api(None),
    "POST /api/v1/turns/{turn_id}/vote": _by_api({"choice": "answer", "position": 1}),
    "POST /api/v1/turns/{turn_id}/rank": _by_api(None, _a_ranking),
    "POST /api/v1/answers/{answer_id}/write": _by_api(None, _a_question_to_a_model),
    "PUT /api/v1/answers/{answer_id}/feedback": _by_api({"kind": "edit", "text": "Better"}),
    "GET /api/v1/shared/{token}": Example(path=lambda w: {"token": "shared"}, prepare=_a_comparison),
    # ------------------------------------------------------------------------------------ keys of the public API
    "GET /keys": Example(prepare=_an_api_key),
    "GET /keys/{key_id}": _of_key(),
    "POST /keys/{key_id}/revoke": _of_key(),
    "POST /keys/{key_id}/withdraw": _of_key(),
    "POST /keys/{key_id}/delete-texts": _of_key(),
    "POST /keys/{key_id}/requests/{request_id}/withdraw": _of_key(),
    "GET /your-data": Example(prepare=_an_api_key),
    "POST /your-data/download": Example(prepare=_a_comparison, fields=lambda w: {}),
    "POST /your-data/delete": Example(prepare=_a_comparison, fields=lambda w: {"sure": "yes"}),
    "GET /admin/keys": Example(prepare=_an_api_key),
    "GET /console/usage": Example(prepare=_an_api_key),
    "GET /console/votes": Example(prepare=_a_vote),
    "POST /console/votes/export": Example(fields=lambda w: {"blind": "yes"}, prepare=_a_vote),
    "POST /admin/keys": Example(
        fields=lambda w: {
            "person_id": str(w.owner),
            "name": XSS[:90],
            "scope": "chat",
            "purpose": "playground",
            "per_minute": "5",
        }
    ),
    "POST /admin/keys/{key_id}/revoke": Example(path=lambda w: KEY, prepare=_an_api_key, fields=lambda w: {}),
    # ------------------------------------------------------------------------------------ accounts
    "GET /static/{version}/{name:path}": Example(),
    "POST /login": Example(fields=lambda w: {"email": "person3@example.org", "password": PASSWORD}),
    "POST /logout": Example(fields=lambda w: {}),
    "GET /join/{token}": Example(),
    "POST /join/{token}": Example(fields=_account),
    "GET /reset/{token}": Example(path=lambda w: {"token": w.parameters["reset_token"]}),
    "POST /reset/{token}": Example(
        path=lambda w: {"token": w.parameters["reset_token"]},
        fields=lambda w: {"password": "another long one", "password_again": "another long one"},
    ),
    "POST /account/password": Example(
        fields=lambda w: {"old_password": PASSWORD, "password": "another long one", "password_again": "another long one"}
    ),
    # ------------------------------------------------------------------------------------ batches
    "POST /batches/import": Example(fields=lambda w: {}),
    "GET /batches/new/{kind}": Example(path=lambda w: {"kind": "rank"}),
    "POST /batches/new/{kind}": Example(path=lambda w: {"kind": "rank"}, fields=_batch),
    "GET /batches/{batch_id}": Example(),
    "POST /batches/{batch_id}/close": Example(fields=lambda w: {}),
    "POST /batches/{batch_id}/open": Example(fields=lambda w: {}),
    "POST /batches/upload": Example(fields=lambda w: {"rows": '{"prompt": "Name a river.", "responses": ["Rhine"]}'}),
    "POST /batches/upload/store": Example(fields=lambda w: {"rows": '{"prompt": "Name a river.", "responses": ["Rhine"]}'}),
    "POST /batches/{batch_id}/edit": Example(
        fields=lambda w: {"name": f"Renamed {XSS}", "priority": "7", "overlap": "3", "lease_minutes": "60"}
    ),
    "GET /batches/{batch_id}/more": Example(),
    "POST /batches/{batch_id}/more": Example(fields=lambda w: {"tasks": "2"}),
    "POST /tasks/{assignment_id}/correct": Example(prepare=answer_the_task, fields=lambda w: {}, owned=True),
    "POST /console/answers/{assignment_id}/send-back": Example(prepare=answer_the_task, fields=lambda w: {"note": XSS}),
    # ------------------------------------------------------------------------------------ admin
    "POST /admin/invites": Example(fields=lambda w: {"role": "labeler", "group": "held_out", "number": "2"}),
    "POST /admin/invites/{invite_id}/withdraw": Example(fields=lambda w: {}),
    "GET /admin/people/{person_id}": Example(),
    "POST /admin/people/{person_id}": Example(
        fields=lambda w: {"role": "researcher", "group": "training", "daily_limit": "12"}
    ),
    "POST /admin/people/{person_id}/disable": Example(fields=lambda w: {}),
    "POST /admin/people/{person_id}/enable": Example(fields=lambda w: {}),
    "POST /admin/people/{person_id}/reset-link": Example(fields=lambda w: {}),
    "POST /admin/backups": Example(fields=lambda w: {}),
    "POST /admin/rounds": Example(fields=lambda w: {}, prepare=without_training),
    "POST /admin/backups/{file}/download": Example(
        path=lambda w: {"file": "labels-20260101-000000.sqlite"}, fields=lambda w: {}, prepare=_a_backup
    ),
    # ------------------------------------------------------------------------------------ the labelers' pages
    "GET /questions": Example(prepare=ask_and_answer),
    "GET /instructions": Example(prepare=publish_instructions),
    "POST /tasks/claim": Example(fields=lambda w: {"kind": "demonstrate"}),
    "GET /tasks/{assignment_id}": Example(owned=True),
    "GET /tasks/{assignment_id}/compare": Example(owned=True),
    "POST /tasks/{assignment_id}/draft": Example(owned=True, fields=lambda w: {"_token": w.token, "A.overall": "3"}),
    "POST /tasks/{assignment_id}/submit": Example(owned=True, fields=a_ranking_form),
    "POST /tasks/{assignment_id}/skip": Example(owned=True, fields=lambda w: {"_token": w.token, "_skip_reason": "unclear"}),
    "POST /tasks/{assignment_id}/release": Example(owned=True, fields=lambda w: {"_token": w.token}),
    "POST /tasks/{assignment_id}/ask": Example(owned=True, fields=lambda w: {"_token": w.token, "_question": "Why?"}),
    "GET /instructions/{kind}/{phase}": Example(
        path=lambda w: {"kind": "rank", "phase": "training"}, prepare=publish_instructions
    ),
    "POST /instructions/{instruction_id}/acknowledge": Example(
        path=lambda w: {"instruction_id": 1}, fields=lambda w: {}, prepare=publish_instructions
    ),
    "POST /questions": Example(fields=lambda w: {"text": "Why?"}),
    "POST /questions/{problem_id}/seen": Example(
        owned=True, path=lambda w: {"problem_id": 1}, fields=lambda w: {}, prepare=ask_and_answer
    ),
    "GET /surveys/{name}": Example(path=lambda w: {"name": "demographics"}),
    "POST /surveys/{name}": Example(path=lambda w: {"name": "satisfaction"}, fields=lambda w: {"glad": "Agree"}),
    # ------------------------------------------------------------------------------------ the JSON API
    "POST /api/v1/session": Example(json=lambda w: {"email": "person3@example.org", "password": PASSWORD}),
    "DELETE /api/v1/session": Example(json=lambda w: None),
    "POST /api/v1/claim": Example(json=lambda w: {}),
    "GET /api/v1/assignments/{assignment_id}": Example(owned=True),
    "PUT /api/v1/assignments/{assignment_id}/draft": Example(
        owned=True, json=lambda w: {"token": w.token, "version": 1, "draft": {"groups": []}}
    ),
    "POST /api/v1/assignments/{assignment_id}/submit": Example(
        owned=True, json=lambda w: {"token": w.token, "answer": a_ranking(w), "seconds_spent": 61.5}
    ),
    "POST /api/v1/assignments/{assignment_id}/skip": Example(
        owned=True, json=lambda w: {"token": w.token, "reason": "unclear"}
    ),
    "POST /api/v1/assignments/{assignment_id}/release": Example(owned=True, json=lambda w: {"token": w.token}),
    # ------------------------------------------------------------------------------------ the researchers' console
    "GET /console/batches/{batch_id}": Example(),
    "POST /console/tasks/{task_id}/serve": Example(fields=lambda w: {"do": "withdraw"}),
    "POST /console/questions/{problem_id}": Example(
        fields=lambda w: {"answer": "Because."}, path=lambda w: {"problem_id": 1}, prepare=_a_question
    ),
    "GET /console/instructions/{phase}/{kind}": Example(path=lambda w: {"phase": "training", "kind": "rank"}),
    "POST /console/instructions/{phase}/{kind}": Example(
        path=lambda w: {"phase": "training", "kind": "rank"},
        fields=lambda w: {"markdown": f"New {XSS}", "change_note": "All of it.", "do": "publish"},
    ),
    "GET /console/instructions/{phase}/{kind}/{version}": Example(
        path=lambda w: {"phase": "training", "kind": "rank", "version": "1"}, prepare=_a_version
    ),
    "GET /console/prompts/{prompt_id:path}": Example(path=lambda w: {"prompt_id": "p0"}),
    "POST /console/data/export": Example(fields=lambda w: {"kind": "prompt"}),
    "POST /console/screening/decide": Example(
        fields=lambda w: {"code": _code(w), "choice": "select", "note": ""}, prepare=_a_candidate
    ),
    "POST /console/screening/score": Example(fields=lambda w: {}),
    "POST /api/v1/batches": Example(json=lambda w: {"name": "More", "kind": "demonstrate", "phase": "evaluation", "tasks": 3}),
    "GET /api/v1/batches/{batch_id}": Example(),
    "POST /api/v1/batches/{batch_id}/close": Example(json=lambda w: None),
    "POST /api/v1/batches/{batch_id}/open": Example(json=lambda w: None),
    "POST /api/v1/export": Example(json=lambda w: None),
    "POST /api/v1/invites": Example(json=lambda w: {"role": "labeler", "group": "candidate"}),
    "DELETE /api/v1/invites/{invite_id}": Example(json=lambda w: None),
}
