"""Conversations of the playground: start and continue them, store models' answers, share them by an unguessable address.

A conversation has one of three layouts: ``single`` (one model), ``compare`` (two to four models, whose names are hidden until
the vote) and ``rank`` (several answers to put in order). A new turn needs an answer to continue from: the only one, or the
one that the vote chose.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import SystemRandom
from typing import Any, Literal, get_args

from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update

from heedful.conversation import Turn
from heedful.errors import ConflictError, DataError, MissingError
from heedful.labeling.database.moments import moment
from heedful.labeling.database.tables import assignment, person
from heedful.labeling.database.usage_tables import answer_feedback, conversation, conversation_turn, model_vote, turn_answer
from heedful.labeling.queue.kinds import refuse_unstorable
from heedful.project.storable import LARGEST_WHOLE

Mode = Literal["chat", "completion"]
Layout = Literal["single", "compare", "rank"]
State = Literal["waiting", "running", "finished", "stopped", "failed"]

MOST_COMPARED = 4
FEWEST_RANKED, MOST_RANKED = 4, 9
"""Answers of the layout ``rank`` (SPEC 2.3)."""
LONGEST_TURN = 50_000
"""Characters."""
MOST_TURNS = 200
LOST_SECONDS = 600.0
"""An answer that has been running for longer is lost: it may be asked for again."""
_RANDOM = SystemRandom()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How models answer; None: the model server's own default."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        _within("temperature", self.temperature, 0, 2)
        _within("top-p", self.top_p, 0, 1)
        _within("most tokens", self.max_tokens, 1, 32_768)
        _within("seed", self.seed, 0, LARGEST_WHOLE)
        if self.top_p == 0:
            raise DataError("top-p is out of range", expected="above 0, up to 1", got="0")
        if len(self.stop) > 4 or not all(self.stop):
            raise DataError("there are too many stop texts", expected="at most 4, none empty", got=str(len(self.stop)))

    def to_json(self) -> dict[str, Any]:
        """Only the values that were set."""
        values = {name: getattr(self, name) for name in ("temperature", "top_p", "max_tokens", "seed")}
        set_values = {name: value for name, value in values.items() if value is not None}
        return set_values | ({"stop": list(self.stop)} if self.stop else {})


def _within(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise DataError(f"{name} is out of range", expected=f"{low} to {high}", got=str(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class NewConversation:
    """The settings of a new conversation."""

    mode: Mode = "chat"
    layout: Layout = "single"
    models: tuple[str, ...]
    num_answers: int = 1
    """For the layout ``rank``; in other layouts each model answers once."""
    system: str | None = None
    use_case: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    training: bool

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode) or self.layout not in get_args(Layout):
            raise DataError("there is no such kind of conversation", expected="chat or completion", got=repr(self.mode))
        fewest, most = (2, MOST_COMPARED) if self.layout == "compare" else (1, 1 if self.layout == "single" else MOST_RANKED)
        if len(set(self.models)) != len(self.models) or not fewest <= len(self.models) <= most:
            expected = f"{fewest} to {most} different models" if most > 1 else "one model"
            raise DataError("choose other models", expected=expected, got=", ".join(self.models) or "none")
        ranked = self.layout == "rank"
        if ranked and not max(FEWEST_RANKED, len(self.models)) <= self.num_answers <= MOST_RANKED:
            expected = f"{FEWEST_RANKED} to {MOST_RANKED} answers, at least one of each model"
            raise DataError("choose another number of answers", expected=expected, got=str(self.num_answers))
        refuse_unstorable([self.system, *self.models, *self.sampling.stop], "the conversation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """An edit or a critique of an answer."""

    kind: Literal["edit", "critique"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerView:
    """An answer as its reader may see it."""

    id: int
    position: int
    model: str | None
    """None: hidden until the vote or the ranking."""
    text: str
    state: State
    finish_reason: str | None
    chosen: bool
    lost: bool
    """Whether it is marked as running, but the process that wrote it is gone."""
    edit: str | None
    critique: str | None

    @property
    def ended(self) -> bool:
        """Whether there is a finished text to judge."""
        return self.state in ("finished", "stopped")


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteView:
    """A vote, and the answers that gave their model away."""

    choice: Literal["answer", "tie", "bad"]
    position: int | None
    gave_away: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnView:
    """What the user said, and the answers to it."""

    id: int
    key: str
    position: int
    text: str
    training: bool
    flags: Sequence[str]
    task_id: int | None
    created: float
    answers: tuple[AnswerView, ...]
    vote: VoteView | None

    @property
    def complete(self) -> bool:
        """Whether no answer is still open, and enough of them did not fail."""
        ended = [answer for answer in self.answers if answer.ended]
        open_answers = any(answer.state in ("waiting", "running") and not answer.lost for answer in self.answers)
        return not open_answers and len(ended) >= min(2, len(self.answers))

    @property
    def chosen(self) -> AnswerView | None:
        """The answer that the conversation continues with."""
        return next((answer for answer in self.answers if answer.chosen), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationView:
    """A whole conversation."""

    id: int
    person_id: int
    mode: Mode
    layout: Layout
    models: tuple[str, ...]
    num_answers: int
    system: str | None
    use_case: str | None
    sampling: Mapping[str, Any]
    training: bool
    share_token: str | None
    created: float
    turns: tuple[TurnView, ...]

    @property
    def can_continue(self) -> bool:
        """Whether another turn can be added."""
        if not self.turns:
            return True
        return self.layout != "rank" and self.turns[-1].chosen is not None and len(self.turns) < MOST_TURNS


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A conversation in the history."""

    id: int
    layout: Layout
    mode: Mode
    beginning: str
    num_turns: int
    training: bool
    shared: bool
    created: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What to ask the model server for one answer."""

    answer_id: int
    model: str
    mode: Mode
    turns: tuple[Turn, ...]
    """For a completion: only the text, as a user's turn."""
    sampling: Mapping[str, Any]
    started: float


# ---------------------------------------------------------------------------------------------------- changes


def start(connection: Connection, person_id: int, new: NewConversation, *, now: float | None = None) -> int:
    """Start a conversation; return its id."""
    values = {
        "person_id": person_id,
        "mode": new.mode,
        "layout": new.layout,
        "models": list(new.models),
        "num_answers": new.num_answers if new.layout == "rank" else len(new.models),
        "system": new.system if new.mode == "chat" else None,
        "use_case": new.use_case,
        "sampling": new.sampling.to_json(),
        "training": new.training,
        "created": moment(now),
    }
    return connection.execute(insert(conversation).values(values).returning(conversation.c.id)).scalar_one()


def add_turn(
    connection: Connection,
    conversation_id: int,
    person_id: int,
    text: str,
    *,
    training: bool,
    flags: Sequence[str] = (),
    now: float | None = None,
) -> int:
    """Add a user's turn, with an answer for each model to write; return the turn's id.

    In a chat, once a turn may not be used for training, no later turn may.

    Raises MissingError, DataError for an empty or too long text, ConflictError if there is no answer to continue from.
    """
    at = moment(now)
    if not text.strip() or len(text) > LONGEST_TURN:
        raise DataError(
            "this cannot be sent", expected=f"a text of at most {LONGEST_TURN:,} characters", got=f"{len(text.strip()):,}"
        )
    refuse_unstorable(text, "the text")
    view = own(connection, conversation_id, person_id, lock=True)
    if not view.can_continue:
        raise ConflictError(
            "this conversation cannot go on yet",
            expected="an answer to continue from",
            got="a turn that has none, or that still needs your vote",
            next_step="wait for the answers and vote, or start another conversation",
        )
    earlier = view.turns if view.mode == "chat" else ()  # a later turn's prompt contains them
    training = training and all(turn.training for turn in earlier)
    found = dict.fromkeys([*(flag for turn in earlier for flag in turn.flags), *flags])
    values = {
        "key": secrets.token_hex(12),
        "conversation_id": conversation_id,
        "position": len(view.turns),
        "text": text,
        "training": training,
        "flags": list(found),
        "created": at,
    }
    added = insert(conversation_turn).values(values).returning(conversation_turn.c.id)
    turn_id = connection.execute(added).scalar_one()
    models = [view.models[place % len(view.models)] for place in range(view.num_answers)]
    _RANDOM.shuffle(models)  # blind: the place must not reveal the model
    rows = [
        {"turn_id": turn_id, "position": position, "model": model, "text": "", "state": "waiting", "chosen": False}
        for position, model in enumerate(models)
    ]
    connection.execute(insert(turn_answer), rows)
    return turn_id


def begin_answer(connection: Connection, answer_id: int, person_id: int, *, now: float | None = None) -> Ask:
    """Claim an answer, so that no other page asks for it too. Raises MissingError, ConflictError."""
    at = moment(now)
    row = _own_answer(connection, answer_id, person_id)
    state = turn_answer.c.state
    free = state.in_(("waiting", "failed")) | ((state == "running") & (turn_answer.c.started < at - LOST_SECONDS))
    taken = (
        update(turn_answer).where(turn_answer.c.id == answer_id, free).values(state="running", started=at, ended=None, text="")
    )
    if connection.execute(taken).rowcount != 1:
        raise ConflictError(
            "this answer is being written, or is finished",
            expected="an answer that waits",
            got=row["state"],
            next_step="reload the page",
        )
    view = own(connection, row["conversation_id"], person_id)
    sampling = dict(view.sampling)
    if "seed" in sampling:
        sampling["seed"] = (sampling["seed"] + row["position"]) % 2**31
    return Ask(
        answer_id=answer_id,
        model=row["model"],
        mode=view.mode,
        turns=turns_before(view, row["turn_position"]),
        sampling=sampling,
        started=at,
    )


def end_answer(
    connection: Connection, ask: Ask, text: str, *, state: State, finish_reason: str | None = None, now: float | None = None
) -> None:
    """Store what the model wrote; does nothing if the answer was deleted in the meantime or claimed by another page."""
    values = {
        "text": text.replace("\x00", "\ufffd").encode(errors="replace").decode(),
        "state": state,
        "finish_reason": finish_reason,
        "ended": moment(now),
    }
    ours = (turn_answer.c.id == ask.answer_id, turn_answer.c.state == "running", turn_answer.c.started == ask.started)
    if connection.execute(update(turn_answer).where(*ours).values(values)).rowcount != 1 or state == "failed":
        return
    alone = (
        select(conversation_turn.c.id)
        .join(conversation, conversation_turn.c.conversation_id == conversation.c.id)
        .where(conversation.c.layout == "single")
    )
    connection.execute(
        update(turn_answer).where(turn_answer.c.id == ask.answer_id, turn_answer.c.turn_id.in_(alone)).values(chosen=True)
    )


def share(connection: Connection, conversation_id: int, person_id: int, *, shared: bool) -> None:
    """Make an address at which anyone may read the conversation, or end it. Raises MissingError."""
    view = own(connection, conversation_id, person_id, lock=True)
    token = (view.share_token or secrets.token_urlsafe(32)) if shared else None
    connection.execute(update(conversation).where(conversation.c.id == conversation_id).values(share_token=token))


def remove(connection: Connection, conversation_id: int) -> None:
    """Delete a conversation. Withdraw what was derived from it first (``consent.withdraw_conversation``)."""
    turns = select(conversation_turn.c.id).where(conversation_turn.c.conversation_id == conversation_id)
    answers = select(turn_answer.c.id).where(turn_answer.c.turn_id.in_(turns))
    connection.execute(delete(answer_feedback).where(answer_feedback.c.answer_id.in_(answers)))
    connection.execute(delete(model_vote).where(model_vote.c.turn_id.in_(turns)))
    connection.execute(delete(turn_answer).where(turn_answer.c.turn_id.in_(turns)))
    connection.execute(delete(conversation_turn).where(conversation_turn.c.conversation_id == conversation_id))
    connection.execute(delete(conversation).where(conversation.c.id == conversation_id))


# ---------------------------------------------------------------------------------------------------- reading


def own(connection: Connection, conversation_id: int, person_id: int, *, lock: bool = False) -> ConversationView:
    """One's own conversation. Raises MissingError, also for another person's conversation."""
    query = select(conversation).where(conversation.c.id == conversation_id, conversation.c.person_id == person_id)
    return _view(connection, connection.execute(query.with_for_update() if lock else query).mappings().one_or_none())


def shared(connection: Connection, token: str) -> ConversationView:
    """The conversation with this share address. Raises MissingError, also if its owner's account is disabled."""
    owned = conversation.join(person, conversation.c.person_id == person.c.id)
    query = select(conversation).select_from(owned).where(conversation.c.share_token == token, person.c.disabled.is_(None))
    return _view(connection, connection.execute(query).mappings().one_or_none())


def history(connection: Connection, person_id: int, *, limit: int = 50, before: int | None = None) -> list[Listed]:
    """A person's conversations, newest first; ``before``: only those with a smaller id."""
    query = select(conversation).where(conversation.c.person_id == person_id)
    if before is not None:
        query = query.where(conversation.c.id < before)
    rows = connection.execute(query.order_by(conversation.c.id.desc()).limit(limit)).mappings().all()
    ids = [row["id"] for row in rows]
    of = conversation_turn.c.conversation_id
    counts = dict(connection.execute(select(of, func.count()).where(of.in_(ids)).group_by(of)).all())
    first = select(of, conversation_turn.c.text).where(of.in_(ids), conversation_turn.c.position == 0)
    beginnings = dict(connection.execute(first).all())
    return [
        Listed(
            id=row["id"],
            layout=row["layout"],
            mode=row["mode"],
            beginning=beginnings.get(row["id"], "")[:200],
            num_turns=counts.get(row["id"], 0),
            training=row["training"],
            shared=row["share_token"] is not None,
            created=row["created"],
        )
        for row in rows
    ]


def turns_before(view: ConversationView, position: int) -> tuple[Turn, ...]:
    """The turns that a model is asked: in a chat, all turns up to this one, with the chosen answers."""
    turn = view.turns[position]
    if view.mode == "completion":
        return (Turn("user", turn.text),)
    said = [Turn("system", view.system)] if view.system and view.system.strip() else []
    for earlier in view.turns[:position]:
        said.append(Turn("user", earlier.text))
        if earlier.chosen is not None:
            said.append(Turn("assistant", earlier.chosen.text))
    return (*said, Turn("user", turn.text))


def conversation_of(connection: Connection, *, turn_id: int, person_id: int, lock: bool = True) -> ConversationView:
    """Return the person's own conversation that a turn belongs to. Raises MissingError."""
    of = conversation_turn.c.conversation_id
    found = connection.execute(select(of).where(conversation_turn.c.id == turn_id)).scalar_one_or_none()
    return own(connection, found or 0, person_id, lock=lock)


def turn_of(view: ConversationView, turn_id: int) -> TurnView:
    """A conversation's turn."""
    return next(turn for turn in view.turns if turn.id == turn_id)


def _own_answer(connection: Connection, answer_id: int, person_id: int) -> RowMapping:
    row = (
        connection.execute(
            select(
                turn_answer.c.model,
                turn_answer.c.state,
                turn_answer.c.position,
                turn_answer.c.turn_id,
                conversation_turn.c.conversation_id,
                conversation_turn.c.position.label("turn_position"),
            )
            .select_from(
                turn_answer.join(conversation_turn, turn_answer.c.turn_id == conversation_turn.c.id).join(
                    conversation, conversation_turn.c.conversation_id == conversation.c.id
                )
            )
            .where(turn_answer.c.id == answer_id, conversation.c.person_id == person_id)
        )
        .mappings()
        .one_or_none()
    )
    if row is None:
        raise _not_there()
    return row


def turn_of_answer(
    connection: Connection, answer_id: int, person_id: int, *, lock: bool = True
) -> tuple[ConversationView, TurnView, AnswerView]:
    """One's own answer, with its turn and conversation. Raises MissingError."""
    row = _own_answer(connection, answer_id, person_id)
    view = own(connection, row["conversation_id"], person_id, lock=lock)
    turn = turn_of(view, row["turn_id"])
    return view, turn, turn.answers[row["position"]]


def _not_there() -> MissingError:
    return MissingError("there is no such conversation", next_step="look for it in your history")


def _view(connection: Connection, row: RowMapping | None) -> ConversationView:
    if row is None:
        raise _not_there()
    turns = (
        connection.execute(
            select(conversation_turn)
            .where(conversation_turn.c.conversation_id == row["id"])
            .order_by(conversation_turn.c.position)
        )
        .mappings()
        .all()
    )
    ids = [turn["id"] for turn in turns]
    answers: dict[int, list[RowMapping]] = {id: [] for id in ids}
    by_place = select(turn_answer).where(turn_answer.c.turn_id.in_(ids)).order_by(turn_answer.c.turn_id, turn_answer.c.position)
    for answer in connection.execute(by_place).mappings():
        answers[answer["turn_id"]].append(answer)
    votes = {
        vote["turn_id"]: VoteView(choice=vote["choice"], position=vote["position"], gave_away=vote["gave_away"])
        for vote in connection.execute(select(model_vote).where(model_vote.c.turn_id.in_(ids))).mappings()
    }
    feedback = {
        (one.answer_id, one.kind): one.text
        for one in connection.execute(
            select(answer_feedback)
            .join(turn_answer, answer_feedback.c.answer_id == turn_answer.c.id)
            .where(turn_answer.c.turn_id.in_(ids))
        )
    }
    tasks = [turn["task_id"] for turn in turns if turn["task_id"] is not None]
    ranked = (assignment.c.task_id.in_(tasks), assignment.c.state == "answered")
    done = set(connection.execute(select(assignment.c.task_id).where(*ranked)).scalars())
    lost = time.time() - LOST_SECONDS

    def named(turn: RowMapping) -> bool:
        return row["layout"] == "single" or turn["id"] in votes or turn["task_id"] in done

    return ConversationView(
        id=row["id"],
        person_id=row["person_id"],
        mode=row["mode"],
        layout=row["layout"],
        models=tuple(row["models"]),
        num_answers=row["num_answers"],
        system=row["system"],
        use_case=row["use_case"],
        sampling=row["sampling"],
        training=row["training"],
        share_token=row["share_token"],
        created=row["created"],
        turns=tuple(
            TurnView(
                id=turn["id"],
                key=turn["key"],
                position=turn["position"],
                text=turn["text"],
                training=turn["training"],
                flags=tuple(turn["flags"]),
                task_id=turn["task_id"],
                created=turn["created"],
                answers=tuple(_answer(answer, feedback, named=named(turn), lost=lost) for answer in answers[turn["id"]]),
                vote=votes.get(turn["id"]),
            )
            for turn in turns
        ),
    )


def _answer(row: RowMapping, feedback: Mapping[tuple[int, str], str], *, named: bool, lost: float) -> AnswerView:
    return AnswerView(
        id=row["id"],
        position=row["position"],
        model=row["model"] if named else None,
        text=row["text"],
        state=row["state"],
        finish_reason=row["finish_reason"],
        chosen=row["chosen"],
        lost=row["state"] == "running" and (row["started"] or 0) < lost,
        edit=feedback.get((row["id"], "edit")),
        critique=feedback.get((row["id"], "critique")),
    )
