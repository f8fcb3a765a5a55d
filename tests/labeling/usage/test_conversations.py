from __future__ import annotations

import pytest
from tests.labeling.labeling import add_person
from tests.labeling.usage.talk import ALPHA, BETA, answer_all, begin, compare

from heedful.conversation import Turn
from heedful.errors import ConflictError, DataError, MissingError
from heedful.labeling.database.connection import Database
from heedful.labeling.usage import conversations
from heedful.labeling.usage.conversations import NewConversation, Sampling


def test_a_chat_goes_on_from_its_answers(database: Database) -> None:
    with database.write() as connection:
        me = add_person(connection, "p-1")
        view = begin(connection, me, "Hello", system="Be brief.", sampling=Sampling(temperature=0.5, seed=3))
        (answer,) = view.turns[0].answers
        assert (answer.state, answer.model, view.can_continue) == ("waiting", ALPHA, False)
        ask = conversations.begin_answer(connection, answer.id, me)
        assert ask.turns == (Turn("system", "Be brief."), Turn("user", "Hello"))
        assert ask.sampling == {"temperature": 0.5, "seed": 3}
        conversations.end_answer(connection, ask, "Hi!", state="finished", finish_reason="stop")
        turn = conversations.add_turn(connection, view.id, me, "How are you?", training=False)
        view = conversations.own(connection, view.id, me)
        assert [t.training for t in view.turns] == [True, False]
        assert view.turns[1].id == turn
        said = conversations.turns_before(view, 1)
        assert [t.text for t in said] == ["Be brief.", "Hello", "Hi!", "How are you?"]


def test_a_completion_is_asked_by_its_text_alone(database: Database) -> None:
    with database.write() as connection:
        me = add_person(connection, "p-1")
        view = answer_all(connection, begin(connection, me, "The Rhine", mode="completion", system="no"), " flows")
        conversations.add_turn(connection, view.id, me, "The Nile", training=True)
        view = conversations.own(connection, view.id, me)
        assert view.system is None
        assert conversations.turns_before(view, 1) == (Turn("user", "The Nile"),)


def test_models_are_hidden_and_their_places_are_drawn(database: Database) -> None:
    with database.write() as connection:
        me = add_person(connection, "p-1")
        first: set[str] = set()
        for _ in range(40):
            view = begin(connection, me, layout="compare", models=(ALPHA, BETA))
            assert [answer.model for answer in view.turns[0].answers] == [None, None]
            first.add(conversations.begin_answer(connection, view.turns[0].answers[0].id, me).model)
        assert first == {ALPHA, BETA}  # by chance the same forty times: once in 2 ** 39


def test_answers_to_rank_share_the_models(database: Database) -> None:
    with database.write() as connection:
        me = add_person(connection, "p-1")
        sampling = Sampling(seed=2**31 - 1)
        view = begin(connection, me, layout="rank", models=(ALPHA, BETA), num_answers=5, sampling=sampling)
        asks = [conversations.begin_answer(connection, answer.id, me) for answer in view.turns[0].answers]
        assert sorted(ask.model for ask in asks).count(ALPHA) in (2, 3)
        assert len({ask.sampling["seed"] for ask in asks}) == 5
        assert max(ask.sampling["seed"] for ask in asks) < 2**31


def test_an_answer_is_written_once(database: Database) -> None:
    with database.write() as connection:
        me = add_person(connection, "p-1")
        view = begin(connection, me)
        id = view.turns[0].answers[0].id
        first = conversations.begin_answer(connection, id, me, now=1000.0)
        with pytest.raises(ConflictError, match="being written"):
            conversations.begin_answer(connection, id, me, now=1001.0)
        # Its writer was lost: another page takes over, and the first one's late word is not kept.
        second = conversations.begin_answer(connection, id, me, now=1001.0 + conversations.LOST_SECONDS)
        conversations.end_answer(connection, first, "late", state="finished")
        conversations.end_answer(connection, second, "right\x00 \ud800", state="finished")
        (answer,) = conversations.own(connection, view.id, me).turns[0].answers
        assert (answer.text, answer.chosen) == ("right\ufffd ?", True)
        with pytest.raises(ConflictError):
            conversations.begin_answer(connection, id, me)


def test_a_failed_answer_can_be_asked_for_again(database: Database) -> None:
    with database.write() as connection:
        me = add_person(connection, "p-1")
        view = answer_all(connection, begin(connection, me), "", state="failed")
        assert not view.can_continue
        assert answer_all(connection, view, "Rhine").can_continue


def test_others_cannot_see_or_touch_it(database: Database) -> None:
    with database.write() as connection:
        me, other = add_person(connection, "p-1"), add_person(connection, "p-2")
        view = begin(connection, me)
        answer = view.turns[0].answers[0].id
        for attempt in (
            lambda: conversations.own(connection, view.id, other),
            lambda: conversations.add_turn(connection, view.id, other, "x", training=True),
            lambda: conversations.begin_answer(connection, answer, other),
            lambda: conversations.share(connection, view.id, other, shared=True),
        ):
            with pytest.raises(MissingError):
                attempt()
        assert conversations.history(connection, other) == []


def test_share_and_end_sharing(database: Database) -> None:
    with database.write() as connection:
        me = add_person(connection, "p-1")
        view = compare(connection, me)
        conversations.share(connection, view.id, me, shared=True)
        token = conversations.own(connection, view.id, me).share_token
        assert token is not None
        assert len(token) >= 43
        seen = conversations.shared(connection, token)
        assert [answer.model for answer in seen.turns[0].answers] == [None, None], "sharing names the models before the vote"
        conversations.share(connection, view.id, me, shared=True)
        assert conversations.own(connection, view.id, me).share_token == token
        conversations.share(connection, view.id, me, shared=False)
        with pytest.raises(MissingError):
            conversations.shared(connection, token)
        with pytest.raises(MissingError):
            conversations.shared(connection, "")


@pytest.mark.parametrize(
    "wrong",
    [
        {"models": ()},
        {"models": (ALPHA, BETA)},
        {"layout": "compare", "models": (ALPHA,)},
        {"layout": "compare", "models": (ALPHA, ALPHA)},
        {"layout": "rank", "num_answers": 3},
        {"layout": "rank", "num_answers": 10},
        {"layout": "all"},
        {"mode": "song"},
        {"system": "a\x00b"},
    ],
)
def test_what_cannot_be_started(wrong: dict[str, object]) -> None:
    values = {"models": (ALPHA,), "training": True} | wrong
    with pytest.raises(DataError):
        NewConversation(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 2.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"max_tokens": 0},
        {"stop": ("a", "b", "c", "d", "e")},
        {"stop": ("",)},
        {"seed": -1},
    ],
)
def test_sampling_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(DataError):
        Sampling(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", " \n", "x" * (conversations.LONGEST_TURN + 1), "a\x00b"])
def test_texts_that_cannot_be_sent(database: Database, text: str) -> None:
    with database.write() as connection:
        me = add_person(connection, "p-1")
        number = conversations.start(connection, me, NewConversation(models=(ALPHA,), training=True))
        with pytest.raises(DataError):
            conversations.add_turn(connection, number, me, text, training=True)


def test_history_in_pages(database: Database) -> None:
    with database.write() as connection:
        me = add_person(connection, "p-1")
        ids = [begin(connection, me, f"Number {number}").id for number in range(5)]
        found = conversations.history(connection, me, limit=3)
        assert [one.id for one in found] == ids[:1:-1]
        assert (found[0].beginning, found[0].num_turns) == ("Number 4", 1)
        assert [one.id for one in conversations.history(connection, me, before=ids[2])] == [ids[1], ids[0]]
