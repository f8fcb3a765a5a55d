from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select
from tests.labeling.labeling import add_person, number_of, rank_answer
from tests.labeling.usage.talk import ALPHA, BETA, a_key, answer_all, begin, compare

from heedful.errors import ConflictError, DataError, MissingError
from heedful.labeling.database import maintenance
from heedful.labeling.database.connection import Database
from heedful.labeling.database.erasing import forget_owner
from heedful.labeling.database.tables import prompt, ranking, rating, task
from heedful.labeling.database.usage_tables import api_request, conversation, withdrawal
from heedful.labeling.exchange.labels import exported_records
from heedful.labeling.queue import leases
from heedful.labeling.usage import admission, blind_votes, consent, conversations, feedback, usage_log
from heedful.labeling.usage.admission import Outcome


def exported(connection: Any) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in exported_records(connection):
        rows.setdefault(row.get("task_kind", row["kind"]), []).append(row)
    return rows


def prompts(connection: Any) -> list[Any]:
    return [row.get("prompt") or row["messages"][-1]["content"] for _, row in usage_log.prompt_rows(connection)]


def ranked(connection: Any, me: int) -> conversations.ConversationView:
    view = begin(connection, me, "Rank this.", layout="rank", models=(ALPHA, BETA), num_answers=4)
    view = answer_all(connection, view, "A", "B", "C", "D")
    assignment_id = feedback.start_ranking(connection, view.turns[0].id, me)
    assert feedback.start_ranking(connection, view.turns[0].id, me) == assignment_id
    task_view = leases.view_assignment(connection, assignment_id, me)
    answer = rank_answer([output.id for output in task_view.outputs])
    leases.submit(connection, assignment_id, me, token=task_view.token, answer=answer, seconds_spent=None)
    return conversations.own(connection, view.id, me)


def test_an_edit_is_a_demonstration_and_beats_the_answer(database: Database) -> None:
    with database.write() as connection:
        me = add_person(connection, "p-1")
        view = compare(connection, me, use_case="open_qa")
        first = view.turns[0].answers[0].id
        feedback.keep(connection, first, me, kind="edit", text="The Rhine is one.")
        feedback.keep(connection, first, me, kind="edit", text="The Rhine is one!")
        feedback.keep(connection, first, me, kind="critique", text="Too short.")
        blind_votes.vote(connection, view.turns[0].id, me, choice="answer", position=0)
        rows = exported(connection)
        name = consent.stored_prompt_id(view.turns[0].key)
        assert [(row["id"], row["user"], row["use_case"]) for row in rows["prompt"]] == [(name, "p-1", "open_qa")]
        assert "split" not in rows["prompt"][0]
        assert [row["text"] for row in rows["demonstration"]] == ["The Rhine is one!"]
        assert sorted(row["text"] for row in rows["response"]) == ["The Nile.", "The Rhine is one!", "The Rhine."]
        (better,) = rows["ranking"]
        text = {row["id"]: row["text"] for row in rows["response"]}
        order = dict(zip([text[id] for id in better["response_ids"]], better["ranks"], strict=True))
        assert order == {"The Rhine is one!": 1, "The Rhine.": 2}
        assert rows["critique"][0]["answer"] == {"text": "Too short."}
        assert rows["vote"][0]["answer"]["choice"] == "answer"
        feedback.keep(connection, first, me, kind="edit", text="  ")
        assert "demonstration" not in exported(connection)


def test_an_edit_of_a_completion_continues_its_text_exactly(database: Database) -> None:
    with database.write() as connection:
        me = add_person(connection, "p-1")
        view = answer_all(connection, begin(connection, me, "The Rhine", mode="completion"), " flow")
        feedback.keep(connection, view.turns[0].answers[0].id, me, kind="edit", text="s north")
        (row,) = exported(connection)["demonstration"]
        assert row["text"] == "s north"


def test_what_feedback_is_refused(database: Database) -> None:
    with database.write() as connection:
        me, other = add_person(connection, "p-1"), add_person(connection, "p-2")
        view = begin(connection, me)
        id = view.turns[0].answers[0].id
        with pytest.raises(ConflictError):
            feedback.keep(connection, id, me, kind="edit", text="x")
        answer_all(connection, view, "Rhine")
        for kind, text in (("joke", "x"), ("edit", "x" * 60_000), ("edit", "\x00")):
            with pytest.raises(DataError):
                feedback.keep(connection, id, me, kind=kind, text=text)
        with pytest.raises(MissingError):
            feedback.keep(connection, id, other, kind="edit", text="x")
        private = begin(connection, me, layout="rank", models=(ALPHA,), num_answers=4, training=False)
        private = answer_all(connection, private, "A")
        with pytest.raises(DataError, match="cannot be ranked"):
            feedback.start_ranking(connection, private.turns[0].id, me)


def test_a_ranking_in_the_playground_is_a_label(database: Database) -> None:
    with database.write() as connection:
        me = add_person(connection, "p-1")
        view = ranked(connection, me)
        assert {answer.model for answer in view.turns[0].answers} == {ALPHA, BETA}
        rows = exported(connection)
        assert len(rows["ranking"]) == 1
        assert len(rows["rating"]) == 4
        assert {row["model"] for row in rows["response"]} == {ALPHA, BETA}
        assert "split" not in rows["prompt"][0]
        # Feedback on the same turn does not export its prompt twice.
        feedback.keep(connection, view.turns[0].answers[0].id, me, kind="edit", text="Better.")
        ids = [row["id"] for row in exported_records(connection)]
        assert len(ids) == len(set(ids))
    assert maintenance.check(database).problems == []


def test_taking_a_turn_back_takes_what_was_made_from_it(database: Database) -> None:
    with database.write() as connection:
        me = add_person(connection, "p-1")
        view = ranked(connection, me)
        kept = compare(connection, me, text="Keep this.")
        for one in (view, kept):
            feedback.keep(connection, one.turns[0].answers[0].id, me, kind="edit", text=f"Edit of {one.turns[0].text}")
        blind_votes.vote(connection, kept.turns[0].id, me, choice="tie", position=None)
        assert prompts(connection) == ["Rank this.", "Keep this."]
        consent.withdraw_turn(connection, view.turns[0].id, me)
        assert prompts(connection) == ["Keep this."]
        rows = exported(connection)
        assert "Rank this" not in str(rows)
        assert [row["text"] for row in rows["demonstration"]] == ["Edit of Keep this."]
        assert [number_of(connection, table) for table in (prompt, ranking, rating, task)] == [0, 0, 0, 0]
        assert list(consent.pending(connection)) == [view.turns[0].key]
        # It stays in its owner's history, and cannot be ranked again.
        again = conversations.own(connection, view.id, me)
        assert (again.turns[0].training, again.turns[0].task_id) == (False, None)
        with pytest.raises(DataError):
            feedback.start_ranking(connection, view.turns[0].id, me)
        consent.withdraw_turn(connection, view.turns[0].id, me)
        assert number_of(connection, withdrawal) == 1
    assert maintenance.check(database).problems == []


def test_later_turns_of_a_chat_repeat_the_earlier_ones(database: Database) -> None:
    with database.write() as connection:
        me = add_person(connection, "p-1")
        view = answer_all(connection, begin(connection, me, "One"), "1")
        for text in ("Two", "Three"):
            conversations.add_turn(connection, view.id, me, text, training=True)
            view = answer_all(connection, conversations.own(connection, view.id, me), text)
        consent.withdraw_turn(connection, view.turns[1].id, me)
        assert [turn.training for turn in conversations.own(connection, view.id, me).turns] == [True, False, False]
        assert prompts(connection) == ["One"]
        consent.withdraw_conversation(connection, view.id, me)
        after = conversations.own(connection, view.id, me)
        assert (after.training, [turn.training for turn in after.turns]) == (False, [False] * 3)


def test_a_turn_after_a_private_one_is_private(database: Database) -> None:
    """In a chat the prompt of a later turn holds the earlier ones."""
    with database.write() as connection:
        me = add_person(connection, "p-1")
        view = answer_all(connection, begin(connection, me, "Secret", training=False), "1")
        conversations.add_turn(connection, view.id, me, "Open", training=True)
        view = conversations.own(connection, view.id, me)
        assert [turn.training for turn in view.turns] == [False, False]
        assert prompts(connection) == []


def test_deleting_a_conversation(database: Database) -> None:
    with database.write() as connection:
        me, other = add_person(connection, "p-1"), add_person(connection, "p-2")
        view = ranked(connection, me)
        with pytest.raises(MissingError):
            consent.delete_conversation(connection, view.id, other)
        consent.delete_conversation(connection, view.id, me)
        assert number_of(connection, conversation) == 0
        assert number_of(connection, ranking) == 0
        assert list(consent.pending(connection)) == [view.turns[0].key]
    assert maintenance.check(database).problems == []


def test_held_out_people_and_candidates_train_nothing(database: Database) -> None:
    with database.write() as connection:
        for number, group in enumerate(("held_out", "candidate")):
            me = add_person(connection, f"p-{number}", group=group)
            view = compare(connection, me, text=f"By {group}")
            feedback.keep(connection, view.turns[0].answers[0].id, me, kind="edit", text="Edit")
            _, secret = a_key(connection, me)
        assert prompts(connection) == []
        rows = exported(connection)
        assert [(row["text"].strip(), row["split"]) for row in rows["prompt"]] == [("By held_out", "test")]
        assert {row["phase"] for row in (*rows["demonstration"], *rows["ranking"], *rows["response"])} == {"evaluation"}
    admitted = admission.admit(database, secret, "chat")
    assert not admitted.key.may_train


def requested(database: Database, secret: str, text: str) -> int:
    admitted = admission.admit(database, secret, "chat")
    asked = [{"role": "user", "content": text}]
    admission.finish(database, admitted, Outcome(status=200, model=ALPHA, request=asked, response=["yes"]))
    return admitted.request_id


def test_requests_are_prompts_unless_they_are_taken_back(database: Database) -> None:
    with database.write() as connection:
        me, other = add_person(connection, "p-1"), add_person(connection, "p-2")
        mine, production = a_key(connection, me), a_key(connection, me, purpose="production")
        private = a_key(connection, me, training=False)
    ids = [requested(database, mine[1], f"Mine {number}") for number in range(3)]
    requested(database, production[1], "Production")
    requested(database, private[1], "Private")
    with database.write() as connection:
        rows = [row for _, row in usage_log.prompt_rows(connection)]
        assert [row["messages"][0]["content"] for row in rows] == ["Mine 0", "Mine 1", "Mine 2"]
        assert {(row["owner"], row["model"], row["consent"]) for row in rows} == {("p-1", ALPHA, True)}
        with pytest.raises(MissingError):
            consent.withdraw_request(connection, ids[0], other)
        with pytest.raises(MissingError):
            consent.withdraw_key(connection, mine[0], other)
        consent.withdraw_request(connection, ids[1], me)
        assert prompts(connection) == ["Mine 0", "Mine 2"]
        assert consent.withdraw_key(connection, mine[0], me) == 2
        assert prompts(connection) == []
        assert len(consent.pending(connection)) == 3
        assert len(consent.withdrawn_by(connection, me)) == 3
    requested(database, mine[1], "After")
    with database.read() as connection:
        assert prompts(connection) == []
        assert "Production" not in str(connection.execute(select(api_request)).all())


def test_forgetting_an_owner_reaches_conversations_and_requests(database: Database) -> None:
    with database.write() as connection:
        me, other = add_person(connection, "p-1"), add_person(connection, "p-2")
        ranked(connection, me)
        compare(connection, other, text="Another's")
        _, secret = a_key(connection, me)
    requested(database, secret, "Mine")
    erased = forget_owner(database, "p-1")
    assert (erased["conversation"], erased["api_request"], erased["ranking"]) == (1, 1, 1)
    with database.read() as connection:
        assert prompts(connection) == ["Another's"]
        assert number_of(connection, api_request) == 1  # its counts stay
    assert forget_owner(database, "p-1") == {}
    assert maintenance.check(database).problems == []
