"""Feedback on answers in the playground: edits, critiques, and rankings on the labelers' form (SPEC 2.3, 7)."""

from __future__ import annotations

import secrets

from sqlalchemy import Connection, delete, insert, select, update

from heedful.conversation import Turn, prompt_turns
from heedful.errors import ConflictError, DataError
from heedful.labeling.database.moments import moment
from heedful.labeling.database.tables import batch, person
from heedful.labeling.database.usage_tables import answer_feedback, conversation_turn, turn_answer
from heedful.labeling.queue import items
from heedful.labeling.queue.assignments import phase_of
from heedful.labeling.queue.claims import claim_task
from heedful.labeling.queue.kinds import refuse_unstorable
from heedful.labeling.usage.consent import stored_prompt_id
from heedful.labeling.usage.conversations import (
    LONGEST_TURN,
    ConversationView,
    conversation_of,
    turn_of,
    turn_of_answer,
    turns_before,
)
from heedful.records import Prompt, Response

BATCH = "Playground: answers to rank"


def keep(
    connection: Connection, answer_id: int, person_id: int, *, kind: str, text: str, now: float | None = None
) -> ConversationView:
    """Keep an edit or critique of an answer in one's own conversation; an empty text removes it. Returns the conversation.

    Raises MissingError, ConflictError for an answer that is not finished, DataError.
    """
    view, _, answer = turn_of_answer(connection, answer_id, person_id)
    if kind not in ("edit", "critique") or len(text) > LONGEST_TURN:
        raise DataError("this cannot be kept", expected=f"an edit or a critique of at most {LONGEST_TURN:,} characters")
    if not answer.ended:
        raise ConflictError("the answer is not finished yet", next_step="wait until it is")
    refuse_unstorable(text, "the text")
    connection.execute(delete(answer_feedback).where(answer_feedback.c.answer_id == answer_id, answer_feedback.c.kind == kind))
    if text.strip() and not (kind == "edit" and text == answer.text):
        connection.execute(
            insert(answer_feedback).values(
                key=secrets.token_hex(12),
                answer_id=answer_id,
                person_id=person_id,
                kind=kind,
                text=text,
                created=moment(now),
            )
        )
    return view


def prompt_of_turn(view: ConversationView, turn_id: int, owner: str) -> Prompt:
    """A turn as a stored prompt: the conversation up to it. Its owner is the user's pseudonym (SPEC 1.3)."""
    turn = turn_of(view, turn_id)
    turns = turns_before(view, turn.position)
    return Prompt(
        id=stored_prompt_id(turn.key),
        turns=(Turn("user", turn.text),) if view.mode == "completion" else prompt_turns(turns),
        use_case=view.use_case,  # type: ignore[arg-type]
        source="customer",
        user=owner,
        metadata={"usage": turn.key},
    )


def start_ranking(connection: Connection, turn_id: int, person_id: int, *, now: float | None = None) -> int:
    """Make a ranking task from a turn's answers, for its own user; return the id of the assignment, which opens the board.

    Raises MissingError; ConflictError if answers are missing; DataError if the turn may not be used for training.
    """
    at = moment(now)
    view = conversation_of(connection, turn_id=turn_id, person_id=person_id)
    turn = turn_of(view, turn_id)
    if turn.task_id is not None:
        return claim_task(connection, person_id, turn.task_id, now=at)
    if view.layout != "rank" or not turn.complete:
        raise ConflictError("the answers are not all there yet", next_step="wait until they are, then rank them")
    if not turn.training or turn.flags:
        raise DataError(
            "these answers cannot be ranked",
            expected="a turn that may be used for training, without personal data",
            got=", ".join(turn.flags) or "a turn that was opted out",
            next_step="start another conversation",
        )
    worker = (
        connection.execute(select(person.c.role, person.c.group_name, person.c.pseudonym).where(person.c.id == person_id))
        .mappings()
        .one()
    )
    prompt = prompt_of_turn(view, turn_id, worker["pseudonym"])
    phase = phase_of(worker)
    rows = connection.execute(
        select(turn_answer)
        .where(turn_answer.c.turn_id == turn_id, turn_answer.c.state.in_(("finished", "stopped")))
        .order_by(turn_answer.c.position)
    )
    responses = [
        Response(
            id=f"{prompt.id}-{row.position}",
            prompt_id=prompt.id,
            text=row.text,
            model=row.model,
            finished=row.finish_reason == "stop",
            phase="evaluation" if phase == "evaluation" else "training",
        )
        for row in rows
    ]
    items.add_prompts(connection, [prompt], now=at)
    items.add_responses(connection, responses, sampling=view.sampling, now=at)
    of_phase = select(batch.c.id).where(batch.c.name == BATCH, batch.c.kind == "rank", batch.c.phase == phase)
    batch_id = connection.execute(of_phase.order_by(batch.c.id).limit(1)).scalar_one_or_none()
    if batch_id is None:
        batch_id = items.make_batch(connection, name=BATCH, kind="rank", phase=phase, now=at)
    new = items.NewTask(prompt_id=prompt.id, response_ids=[one.id for one in responses])
    (task_id,) = items.add_tasks(connection, batch_id, [new], created_by=person_id, now=at)
    connection.execute(update(conversation_turn).where(conversation_turn.c.id == turn_id).values(task_id=task_id))
    return claim_task(connection, person_id, task_id, now=at)
