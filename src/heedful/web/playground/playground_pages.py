"""The playground's pages: start a conversation, read it, share it, withdraw it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from heedful.errors import ConflictError, DataError, HeedfulError
from heedful.labeling.usage import consent, conversations, misuse
from heedful.labeling.usage.conversations import FEWEST_RANKED, MOST_COMPARED, MOST_RANKED, NewConversation, Sampling
from heedful.prompts.personal import find_personal_data
from heedful.web.label.words import USE_CASES
from heedful.web.model_server import ModelServer, ModelServerError
from heedful.web.playground.use_case_presets import DEFAULT, PRESETS
from heedful.web.public.withdrawals import clean_project
from heedful.web.routing import Form, Id, Routes, Visit, Visiting
from heedful.web.sent_forms import FormValues

LISTED = 30


def routes(add: Routes) -> None:
    """Conversations."""
    add.get("/playground", show_start, who="user")
    add.post("/playground", start, who="user")
    add.get("/playground/shared/{token}", show_shared, who="public")
    add.get("/playground/{conversation_id}", show, who="user")
    add.post("/playground/{conversation_id}/turns", add_turn, who="user")
    add.post("/playground/{conversation_id}/share", share, who="user")
    add.post("/playground/{conversation_id}/withdraw", withdraw, who="user")
    add.post("/playground/{conversation_id}/delete", delete, who="user")
    add.post("/playground/turns/{turn_id}/withdraw", withdraw_turn, who="user")


def server_of(visit: Visit) -> ModelServer | None:
    """The application's model server, if one is set."""
    return visit.request.app.state.model_server


# ---------------------------------------------------------------------------------------------------- start


async def show_start(visit: Visiting, use_case: str = "", before: str = "") -> Response:
    """The form for a new conversation, and the history."""
    preset = PRESETS.get(use_case, DEFAULT)
    fields = {"use_case": use_case if use_case in PRESETS else "", "text": preset.example, "mode": preset.mode}
    fields |= {name: str(value) for name, value in preset.sampling.to_json().items()}
    older_than = int(before) if before.isdecimal() and len(before) < 10 else None
    return await _start_page(visit, fields, older_than=older_than)


async def start(visit: Visiting, form: Form) -> Response:
    """Start a conversation with its first turn, or show the form again with the problem."""
    try:
        new, text = _new_conversation(visit, form), form.text("text", "")
        models = await models_of(visit)
        unknown = [name for name in new.models if name not in models]
        if unknown:
            raise DataError("the server has no such model", expected=", ".join(models), got=", ".join(unknown)[:200])
        return await run_in_threadpool(_started, visit, new, text)
    except (DataError, ConflictError, ModelServerError) as error:
        fields = {name: form.text(name) for name in form.names()}
        return await _start_page(visit, fields, chosen=form.all("model"), problem=error)


def _started(visit: Visit, new: NewConversation, text: str) -> Response:
    flags = flags_of(text)
    with visit.database.write() as connection:
        number = conversations.start(connection, visit.person.id, new)
        conversations.add_turn(connection, number, visit.person.id, text, training=new.training, flags=flags)
    return visit.go(f"/playground/{number}")


def _new_conversation(visit: Visit, form: FormValues) -> NewConversation:
    layout = form.text("layout", "single")
    if layout == "rank" and not visit.may("labeler"):
        raise DataError(
            "only labelers rank answers", expected="one model, or a blind comparison", got="answers to put in order"
        )
    models = tuple(form.all("model"))
    if layout == "single":
        models = models[:1]
    return NewConversation(
        mode=cast("Any", form.text("mode", "chat")),
        layout=cast("Any", layout),
        models=models,
        num_answers=form.whole("num_answers", FEWEST_RANKED) or 0,
        system=form.text("system", "").strip() or None,
        use_case=form.text("use_case", "") if form.text("use_case", "") in PRESETS else None,
        sampling=Sampling(
            temperature=_number(form, "temperature"),
            top_p=_number(form, "top_p"),
            max_tokens=form.whole("max_tokens"),
            stop=tuple(line for line in form.text("stop", "").split("\n") if line),
            seed=form.whole("seed"),
        ),
        training=form.has("training") and consent.makes_training_data(visit.person),
    )


def _number(form: FormValues, name: str) -> float | None:
    text = form.text(name, "").strip()
    try:
        return float(text) if text else None
    except ValueError:
        raise DataError(f"{name.replace('_', '-')} is not a number", expected="a number, such as 0.7", got=text[:20]) from None


async def models_of(visit: Visit) -> list[str]:
    """The names of the models that people may talk to. Raises DataError, ModelServerError."""
    server = server_of(visit)
    if server is None:
        raise DataError(
            "no model server is set",
            expected="the address of an OpenAI-compatible server",
            got="none",
            next_step="ask an admin to set model_server in heedful.toml, or HEEDFUL_MODEL_SERVER, and to start the server",
        )
    return await server.models()


async def _start_page(
    visit: Visit,
    fields: Mapping[str, str],
    *,
    chosen: Sequence[str] | None = None,
    older_than: int | None = None,
    problem: HeedfulError | None = None,
) -> Response:
    unavailable: HeedfulError | None = None
    models: list[str] = []
    try:
        models = await models_of(visit)
    except (DataError, ModelServerError) as error:
        unavailable = error
    return await run_in_threadpool(_shown_start, visit, fields, models, chosen, older_than, problem or unavailable)


def _shown_start(
    visit: Visit,
    fields: Mapping[str, str],
    models: Sequence[str],
    chosen: Sequence[str] | None,
    older_than: int | None,
    problem: HeedfulError | None,
) -> Response:
    with visit.database.read() as connection:
        found = conversations.history(connection, visit.person.id, limit=LISTED + 1, before=older_than)
        withdrawn = consent.withdrawn_by(connection, visit.person.id, limit=10)
    return visit.page(
        "playground/start.html",
        status=200 if problem is None or chosen is None else 422,
        fields=fields,
        models=models,
        chosen=models[:2] if chosen is None else chosen,
        use_cases=USE_CASES,
        history=found[:LISTED],
        older=found[LISTED - 1].id if len(found) > LISTED else None,
        first=older_than is None,
        withdrawn=withdrawn,
        trains=consent.makes_training_data(visit.person),
        training=chosen is None or "training" in fields,
        problem=problem,
        ranked=(FEWEST_RANKED, MOST_RANKED),
        most_compared=MOST_COMPARED,
        may_rank=visit.may("labeler"),
    )


# ---------------------------------------------------------------------------------------------------- a conversation


def show(visit: Visiting, conversation_id: Id) -> Response:
    """One's own conversation."""
    return conversation_page(visit, conversation_id)


def add_turn(visit: Visiting, form: Form, conversation_id: Id) -> Response:
    """Add a turn to a conversation."""
    text = form.text("text", "")
    training = form.has("training") and consent.makes_training_data(visit.person)
    flags = flags_of(text)
    try:
        with visit.database.write() as connection:
            conversations.add_turn(connection, conversation_id, visit.person.id, text, training=training, flags=flags)
    except (DataError, ConflictError) as error:
        return conversation_page(visit, conversation_id, text=text, problem=error)
    return visit.go(f"/playground/{conversation_id}#last")


def share(visit: Visiting, form: Form, conversation_id: Id) -> Response:
    """Make an address at which others may read the conversation, or end it."""
    shared = form.text("do", "share") == "share"
    with visit.database.write() as connection:
        conversations.share(connection, conversation_id, visit.person.id, shared=shared)
    message = "Anyone with the link below may read this conversation." if shared else "The link no longer works."
    return visit.go(f"/playground/{conversation_id}", flash=message)


def show_shared(visit: Visiting, token: str) -> Response:
    """A shared conversation, read-only; model names that are hidden from its owner are hidden here too."""
    with visit.database.read() as connection:
        view = conversations.shared(connection, token)
    return visit.page("playground/shared.html", view=view, layouts=LAYOUTS)


def withdraw(visit: Visiting, conversation_id: Id) -> Response:
    """Opt the whole conversation out."""
    with visit.database.write() as connection:
        consent.withdraw_conversation(connection, conversation_id, visit.person.id)
    return visit.go(f"/playground/{conversation_id}", flash=clean_project(visit))


def withdraw_turn(visit: Visiting, turn_id: Id) -> Response:
    """Opt a turn out, with the later turns that contain it."""
    with visit.database.write() as connection:
        view = conversations.conversation_of(connection, turn_id=turn_id, person_id=visit.person.id)
        consent.withdraw_turn(connection, turn_id, visit.person.id)
    return visit.go(f"/playground/{view.id}", flash=clean_project(visit))


def delete(visit: Visiting, conversation_id: Id) -> Response:
    """Delete a conversation and everything derived from it."""
    with visit.database.write() as connection:
        consent.delete_conversation(connection, conversation_id, visit.person.id)
    return visit.go("/playground", flash=f"The conversation is deleted. {clean_project(visit)}")


LAYOUTS: Mapping[str, str] = {
    "single": "One model",
    "compare": "Blind comparison",
    "rank": "Answers to rank",
}


def conversation_page(
    visit: Visit, conversation_id: int, *, text: str = "", problem: HeedfulError | None = None, status: int = 422
) -> Response:
    """A conversation as its owner sees it."""
    with visit.database.read() as connection:
        view = conversations.own(connection, conversation_id, visit.person.id)
    return visit.page(
        "playground/conversation.html",
        status=200 if problem is None else status,
        view=view,
        text=text,
        problem=problem,
        layouts=LAYOUTS,
        use_cases=USE_CASES,
        trains=consent.makes_training_data(visit.person),
        share_url=f"{visit.settings.public_url}/playground/shared/{view.share_token}" if view.share_token else None,
    )


def flags_of(text: str) -> list[str]:
    """Flags of a text: kinds of personal data, and findings of the installed classifiers."""
    kinds = sorted({found.kind for found in find_personal_data(text)})
    return [f"personal data: {kind}" for kind in kinds] + misuse.flags_of([text], misuse.installed())
