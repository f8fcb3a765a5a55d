"""What the playground adds to the export of labels: prompts with their answers, edits, critiques and votes.

An edit is a demonstration and, with the answer that it corrects, a ranking of two (the edit is better). Critiques and votes are
rows of ``"kind": "annotation"``. Rankings on the board are labels of the queue and are exported with the others. Nothing is
exported from a turn that was opted out or flagged, or whose user is a candidate. Held-out labelers' feedback has the phase
evaluation.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, exists, or_, select

from heedful.conversation import response_text
from heedful.labeling.database.tables import person
from heedful.labeling.database.usage_tables import answer_feedback, conversation, conversation_turn, model_vote, turn_answer
from heedful.labeling.people.accounts import shown_group
from heedful.labeling.usage.conversations import AnswerView, ConversationView, TurnView, own, turn_of
from heedful.labeling.usage.feedback import prompt_of_turn
from heedful.project.data_folder import record_to_json
from heedful.records import Demonstration, Phase, Prompt, Ranking, Response

PLAYGROUND = "playground"
"""The ``source`` in the metadata of feedback from the playground."""


def playground_rows(connection: Connection, without: Container[str] = ()) -> Iterator[dict[str, Any]]:
    """Rows as ``heedful import heedful`` reads them, dependencies first. ``without``: ids that were exported already."""
    answers = select(turn_answer.c.id).where(turn_answer.c.turn_id == conversation_turn.c.id)
    said = exists().where(answer_feedback.c.answer_id.in_(answers))
    voted = exists().where(model_vote.c.turn_id == conversation_turn.c.id)
    query = (
        select(
            conversation_turn.c.id,
            conversation_turn.c.conversation_id,
            conversation.c.person_id,
            person.c.pseudonym,
            person.c.role,
            person.c.group_name,
        )
        .select_from(
            conversation_turn.join(conversation, conversation_turn.c.conversation_id == conversation.c.id).join(
                person, conversation.c.person_id == person.c.id
            )
        )
        .where(conversation_turn.c.training, or_(said, voted))
        .where(or_(person.c.role != "labeler", person.c.group_name != "candidate"))
        .order_by(conversation_turn.c.id)
    )
    found = connection.execute(query).mappings().all()
    rows = [row for of_turn in found for row in _rows_of_turn(connection, of_turn)]
    order = ("prompt", "response", "demonstration", "ranking", "annotation")
    yield from sorted((row for row in rows if row["id"] not in without), key=lambda row: order.index(row["kind"]))


def _rows_of_turn(connection: Connection, row: Mapping[Any, Any]) -> Iterator[dict[str, Any]]:
    view = own(connection, row["conversation_id"], row["person_id"])
    turn = turn_of(view, row["id"])
    if turn.flags:
        return
    phase: Phase = "evaluation" if row["role"] == "labeler" and row["group_name"] == "held_out" else "training"
    prompt = prompt_of_turn(view, turn.id, row["pseudonym"])
    record = {"kind": "prompt", **record_to_json(prompt)}
    record.pop("split", None)  # the import gives it the split of its owner
    yield record | ({"split": "test"} if phase == "evaluation" else {})
    group = shown_group(row["role"], row["group_name"])
    metadata = {"usage": turn.key, "group": group, "source": PLAYGROUND}
    models = dict(
        connection.execute(select(turn_answer.c.position, turn_answer.c.model).where(turn_answer.c.turn_id == turn.id)).all()
    )
    for answer in turn.answers:
        if answer.ended:
            yield _response_row(prompt.id, answer, models[answer.position], phase)
            yield from _feedback_rows(prompt, answer, row["pseudonym"], phase, metadata)
    if turn.vote is not None:
        yield _vote_row(view, turn, prompt.id, row["pseudonym"], phase, metadata, models)


def _response_row(prompt_id: str, answer: AnswerView, model: str, phase: Phase) -> dict[str, Any]:
    response = Response(
        id=f"{prompt_id}-{answer.position}",
        prompt_id=prompt_id,
        text=answer.text,
        model=model,
        finished=answer.finish_reason == "stop",
        phase=phase,
    )
    return {"kind": "response", **record_to_json(response)}


def _feedback_rows(
    prompt: Prompt, answer: AnswerView, labeler: str, phase: Phase, metadata: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    name = f"{prompt.id}-{answer.position}"
    if answer.edit is not None:
        about = {**metadata, "edit_of": name}
        demonstration = Demonstration(
            id=f"edit-{name}",
            prompt_id=prompt.id,
            text=_continuing(prompt, answer.edit),
            labeler=labeler,
            phase=phase,
            metadata=about,
        )
        edited = Response(id=f"edited-{name}", prompt_id=prompt.id, text=answer.edit, model="human", phase=phase)
        better = Ranking(
            id=f"edit-ranking-{name}",
            prompt_id=prompt.id,
            response_ids=(edited.id, name),
            ranks=(1, 2),
            labeler=labeler,
            phase=phase,
            metadata=about,
        )
        yield {"kind": "response", **record_to_json(edited)}
        yield {"kind": "demonstration", **record_to_json(demonstration)}
        yield {"kind": "ranking", **record_to_json(better)}
    if answer.critique is not None:
        yield {
            "kind": "annotation",
            "task_kind": "critique",
            "id": f"critique-{name}",
            "prompt_id": prompt.id,
            "response_id": name,
            "labeler": labeler,
            "phase": phase,
            "answer": {"text": answer.critique},
            "metadata": dict(metadata),
        }


def _continuing(prompt: Prompt, text: str) -> str:
    """An edit as it continues its prompt. For a completion it is kept exactly, as the model's own text was."""
    is_completion = len(prompt.turns) == 1 and not prompt.text.endswith("\n")
    return text if is_completion else response_text(prompt.turns, text)


def _vote_row(
    view: ConversationView,
    turn: TurnView,
    prompt_id: str,
    labeler: str,
    phase: Phase,
    metadata: Mapping[str, Any],
    models: Mapping[int, str],
) -> dict[str, Any]:
    assert turn.vote is not None
    answer = {
        "choice": turn.vote.choice,
        "position": turn.vote.position,
        "models": [models[place] for place in sorted(models)],
        "gave_away": list(turn.vote.gave_away),
    }
    return {
        "kind": "annotation",
        "task_kind": "vote",
        "id": f"vote-{turn.key}",
        "prompt_id": prompt_id,
        "labeler": labeler,
        "phase": phase,
        "answer": answer,
        "metadata": {**metadata, "layout": view.layout},
    }
