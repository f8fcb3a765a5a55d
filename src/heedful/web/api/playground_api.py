"""The playground's part of the JSON API: conversations, answers, votes, feedback, sharing, and withdrawal.

The rules are the same as for the pages (``web.playground``): names of models are hidden until the vote, and only its owner can
see that a conversation exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Query, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from heedful.errors import DataError
from heedful.labeling.usage import blind_votes, consent, conversations, feedback
from heedful.labeling.usage.conversations import LONGEST_TURN, AnswerView, ConversationView, Layout, Mode, VoteView
from heedful.project.storable import LARGEST_WHOLE
from heedful.records import UseCase
from heedful.web.api.labeler_api import Done, Sent
from heedful.web.closing_stream import ClosingStream
from heedful.web.playground.playground_pages import flags_of, models_of
from heedful.web.playground.streaming import as_events, begin_writing, wants_events
from heedful.web.public.withdrawals import clean_project
from heedful.web.routing import Id, Routes, Visit, Visiting

Text = Annotated[str, Field(min_length=1, max_length=LONGEST_TURN, pattern=r"\S")]
ModelName = Annotated[str, Field(min_length=1, max_length=500)]
Training = Annotated[bool, Field(description="Whether the text, its answers and your feedback may be used for training")]


class HowToAnswer(Sent):
    """How models answer; the model server's defaults apply to what is left out."""

    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    max_tokens: int | None = Field(default=None, ge=1, le=32_768)
    stop: list[Annotated[str, Field(min_length=1, max_length=1_000)]] = Field(default=[], max_length=4)
    seed: int | None = Field(default=None, ge=0, le=LARGEST_WHOLE)


class StartConversation(Sent):
    """A new conversation with its first turn."""

    text: Text
    training: Training
    models: list[ModelName] = Field(min_length=1, max_length=conversations.MOST_RANKED)
    layout: Layout = Field(default="single", description="One model; a blind comparison; or answers to rank (labelers only)")
    mode: Mode = "chat"
    num_answers: int = Field(default=conversations.FEWEST_RANKED, ge=1, le=9, description="Only for answers to rank")
    system: str | None = Field(default=None, max_length=LONGEST_TURN)
    use_case: UseCase | None = None
    sampling: HowToAnswer = HowToAnswer()


class NewTurn(Sent):
    """What you say next."""

    text: Text
    training: Training


class Vote(Sent):
    """Which answer is better: the one at a position (0: the left one), none (a tie), or all are bad."""

    choice: blind_votes.Choice
    position: int | None = Field(default=None, ge=0, le=8)


class NewFeedback(Sent):
    """The answer as it should be, or what is good or wrong about it; an empty text removes it."""

    kind: Literal["edit", "critique"]
    text: str = Field(max_length=LONGEST_TURN)


class Share(Sent):
    """Whether anyone with the link may read the conversation."""

    shared: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The names of the models that answer."""

    models: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrote:
    """An answer that has ended, and what went wrong if it failed."""

    answer: AnswerView
    message: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """The address at which anyone can read the conversation; null if it is not shared."""

    link: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenBack:
    """The result of taking something back."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """The ranking task; show it with GET /api/v1/assignments/{assignment_id}."""

    assignment_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedAnswer:
    """An answer of a shared conversation; the model's name is null as long as it is hidden from the owner."""

    model: str | None
    text: str
    state: conversations.State


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedTurn:
    """A turn of a shared conversation."""

    text: str
    answers: list[SharedAnswer]
    vote: VoteView | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedConversation:
    """A conversation as others may read it."""

    mode: Mode
    layout: Layout
    system: str | None
    created: float
    turns: list[SharedTurn]


def routes(add: Routes) -> None:
    """The API's routes for everyone with an account, around the playground."""
    more: Mapping[str, Any] = {"tags": ["playground"]}
    one, turn, answer = "/api/v1/conversations/{conversation_id}", "/api/v1/turns/{turn_id}", "/api/v1/answers/{answer_id}"
    view = ConversationView
    add.get("/api/v1/models", models, who="user", response_model=Models, **more)
    add.get("/api/v1/conversations", listed, who="user", response_model=list[conversations.Listed], **more)
    add.post("/api/v1/conversations", start, who="user", response_model=view, **more)
    add.get(one, show, who="user", response_model=view, **more)
    add.delete(one, delete, who="user", response_model=TakenBack, **more)
    add.post(f"{one}/turns", add_turn, who="user", response_model=view, **more)
    add.post(f"{one}/share", share, who="user", response_model=Link, **more)
    add.post(f"{one}/withdraw", withdraw, who="user", response_model=TakenBack, **more)
    add.post(f"{turn}/withdraw", withdraw_turn, who="user", response_model=TakenBack, **more)
    add.post(f"{turn}/vote", vote, who="user", response_model=view, **more)
    add.post(f"{turn}/rank", rank, who="labeler", response_model=Assignment, **more)
    add.post(f"{answer}/write", write, who="user", response_model=Wrote, **more)
    add.put(f"{answer}/feedback", give, who="user", response_model=Done, **more)
    add.get("/api/v1/shared/{token}", shared, who="public", response_model=SharedConversation, **more)


async def models(visit: Visiting) -> Models:
    """List the models that answer in the playground."""
    return Models(models=await models_of(visit))


def listed(
    visit: Visiting,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[int | None, Query(ge=1, le=LARGEST_WHOLE)] = None,
) -> list[conversations.Listed]:
    """List your conversations, newest first. For the next page, send the id of the last one as ``before``."""
    with visit.database.read() as connection:
        return conversations.history(connection, visit.person.id, limit=limit, before=before)


async def start(visit: Visiting, sent: StartConversation) -> ConversationView:
    """Start a conversation. Its answers are written on request: POST /api/v1/answers/{answer_id}/write."""
    if sent.layout == "rank" and not visit.may("labeler"):
        raise DataError("only labelers rank answers", expected="layout single or compare", got="rank")
    there = await models_of(visit)
    if unknown := [name for name in sent.models if name not in there]:
        raise DataError("the server has no such model", expected=", ".join(there), got=", ".join(unknown)[:200])
    return await run_in_threadpool(_started, visit, sent)


def _started(visit: Visit, sent: StartConversation) -> ConversationView:
    how = sent.sampling
    new = conversations.NewConversation(
        mode=sent.mode,
        layout=sent.layout,
        models=tuple(sent.models),
        num_answers=sent.num_answers,
        system=(sent.system or "").strip() or None,
        use_case=sent.use_case,
        sampling=conversations.Sampling(
            temperature=how.temperature, top_p=how.top_p, max_tokens=how.max_tokens, stop=tuple(how.stop), seed=how.seed
        ),
        training=sent.training and consent.makes_training_data(visit.person),
    )
    flags = flags_of(sent.text)
    with visit.database.write() as connection:
        number = conversations.start(connection, visit.person.id, new)
        conversations.add_turn(connection, number, visit.person.id, sent.text, training=new.training, flags=flags)
        return conversations.own(connection, number, visit.person.id)


def show(visit: Visiting, conversation_id: Id) -> ConversationView:
    """Show one of your conversations. Names of models are null until your vote or ranking."""
    with visit.database.read() as connection:
        return conversations.own(connection, conversation_id, visit.person.id)


def add_turn(visit: Visiting, conversation_id: Id, sent: NewTurn) -> ConversationView:
    """Add a turn to a conversation."""
    training = sent.training and consent.makes_training_data(visit.person)
    flags = flags_of(sent.text)
    with visit.database.write() as connection:
        conversations.add_turn(connection, conversation_id, visit.person.id, sent.text, training=training, flags=flags)
        return conversations.own(connection, conversation_id, visit.person.id)


async def write(visit: Visiting, request: Request, answer_id: Id) -> Any:
    """Let the model write a waiting answer. The response comes when the answer has ended.

    With the header ``Accept: text/event-stream`` it is a stream of events: ``{"text": "..."}`` for each piece, and last
    ``{"state": "finished"}``.
    """
    _, writing = await begin_writing(visit, answer_id)
    if wants_events(request):
        return ClosingStream(as_events(writing), writing.keep)
    message: str | None = None
    async for event in writing.events():
        message = event.get("message", message)
    return await run_in_threadpool(_wrote, visit, answer_id, message)


def _wrote(visit: Visit, answer_id: int, message: str | None) -> Wrote:
    with visit.database.read() as connection:
        _, _, answer = conversations.turn_of_answer(connection, answer_id, visit.person.id, lock=False)
    return Wrote(answer=answer, message=message)


def vote(visit: Visiting, turn_id: Id, sent: Vote) -> ConversationView:
    """Vote on a blind comparison, once. After that, the models are named."""
    with visit.database.write() as connection:
        blind_votes.vote(connection, turn_id, visit.person.id, choice=sent.choice, position=sent.position)
        return conversations.conversation_of(connection, turn_id=turn_id, person_id=visit.person.id, lock=False)


def rank(visit: Visiting, turn_id: Id) -> Assignment:
    """Make a ranking task for you from a turn's answers, or return the existing one."""
    with visit.database.write() as connection:
        return Assignment(assignment_id=feedback.start_ranking(connection, turn_id, visit.person.id))


def give(visit: Visiting, answer_id: Id, sent: NewFeedback) -> Done:
    """Keep an edit or a critique of an answer."""
    with visit.database.write() as connection:
        feedback.keep(connection, answer_id, visit.person.id, kind=sent.kind, text=sent.text)
    return Done()


def share(visit: Visiting, conversation_id: Id, sent: Share) -> Link:
    """Make the link at which anyone may read the conversation, or end it."""
    with visit.database.write() as connection:
        conversations.share(connection, conversation_id, visit.person.id, shared=sent.shared)
        token = conversations.own(connection, conversation_id, visit.person.id).share_token
    return Link(link=None if token is None else f"{visit.settings.public_url}/playground/shared/{token}")


def shared(visit: Visiting, token: str) -> SharedConversation:
    """Read a shared conversation."""
    with visit.database.read() as connection:
        view = conversations.shared(connection, token)
    turns = [
        SharedTurn(
            text=turn.text,
            answers=[SharedAnswer(model=one.model, text=one.text, state=one.state) for one in turn.answers],
            vote=turn.vote,
        )
        for turn in view.turns
    ]
    return SharedConversation(mode=view.mode, layout=view.layout, system=view.system, created=view.created, turns=turns)


def withdraw(visit: Visiting, conversation_id: Id) -> TakenBack:
    """Take a whole conversation back from training, with everything made from it. This is final."""
    with visit.database.write() as connection:
        consent.withdraw_conversation(connection, conversation_id, visit.person.id)
    return TakenBack(message=clean_project(visit))


def withdraw_turn(visit: Visiting, turn_id: Id) -> TakenBack:
    """Take a turn back from training, with the later turns that contain it. This is final."""
    with visit.database.write() as connection:
        consent.withdraw_turn(connection, turn_id, visit.person.id)
    return TakenBack(message=clean_project(visit))


def delete(visit: Visiting, conversation_id: Id) -> TakenBack:
    """Delete a conversation and everything derived from it."""
    with visit.database.write() as connection:
        consent.delete_conversation(connection, conversation_id, visit.person.id)
    return TakenBack(message=clean_project(visit))
