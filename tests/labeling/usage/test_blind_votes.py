from __future__ import annotations

import csv
import io
import random
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import update
from tests.labeling.labeling import add_person
from tests.labeling.usage.talk import ALPHA, BETA, answer_all, begin, compare

from heedful.errors import ConflictError, DataError, MissingError
from heedful.evaluate.vote_sources import Selection, votes_of_file
from heedful.labeling.database.connection import Database
from heedful.labeling.database.usage_tables import conversation_turn
from heedful.labeling.usage import blind_votes, consent, conversations
from heedful.labeling.usage.blind_votes import Cast, given_away_by, names_of
from heedful.labeling.usage.usage_export import playground_rows
from heedful.statistics.bradley_terry import bradley_terry
from heedful.statistics.text_style import TextStyle


def test_a_vote_names_the_models_and_the_conversation_goes_on(database: Database) -> None:
    with database.write() as connection:
        me = add_person(connection, "p-1")
        view = compare(connection, me)
        assert not view.can_continue
        blind_votes.vote(connection, view.turns[0].id, me, choice="answer", position=1)
        view = conversations.own(connection, view.id, me)
        assert {answer.model for answer in view.turns[0].answers} == {ALPHA, BETA}
        assert view.turns[0].chosen is not None
        assert view.turns[0].chosen.text == "The Nile."
        conversations.add_turn(connection, view.id, me, "And another?", training=True)
        view = conversations.own(connection, view.id, me)
        assert [answer.model for answer in view.turns[1].answers] == [None, None]
        assert [turn.text for turn in conversations.turns_before(view, 1)] == ["Name a river.", "The Nile.", "And another?"]
        with pytest.raises(ConflictError):
            blind_votes.vote(connection, view.turns[0].id, me, choice="tie", position=None)


@pytest.mark.parametrize("choice", ["tie", "bad"])
def test_without_a_preference_it_goes_on_with_the_first(database: Database, choice: str) -> None:
    with database.write() as connection:
        me = add_person(connection, "p-1")
        view = compare(connection, me)
        blind_votes.vote(connection, view.turns[0].id, me, choice=choice, position=None)
        chosen = conversations.own(connection, view.id, me).turns[0].chosen
        assert chosen is not None
        assert chosen.text == "The Rhine."


def test_votes_that_do_not_count(database: Database) -> None:
    with database.write() as connection:
        me, other = add_person(connection, "p-1"), add_person(connection, "p-2")
        waiting = begin(connection, me, layout="compare", models=(ALPHA, BETA)).turns[0].id
        with pytest.raises(ConflictError, match="not all there"):
            blind_votes.vote(connection, waiting, me, choice="tie", position=None)
        alone = answer_all(connection, begin(connection, me), "Rhine").turns[0].id
        with pytest.raises(ConflictError, match="takes no vote"):
            blind_votes.vote(connection, alone, me, choice="tie", position=None)
        turn = compare(connection, me).turns[0].id
        with pytest.raises(MissingError):
            blind_votes.vote(connection, turn, other, choice="tie", position=None)
        for choice, position in (("answer", 2), ("answer", None), ("left", 0)):
            with pytest.raises(DataError):
                blind_votes.vote(connection, turn, me, choice=choice, position=position)
        assert list(blind_votes.votes_cast(connection)) == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("I am alpha-7b.", "alpha-7b"),
        ("As ALPHA, I say no.", "alpha"),
        ("Ask acme/alpha-7b", "acme/alpha-7b"),
        ("The alphabet has 26 letters.", None),
        ("I am SmolLM2, made in ...", "SmolLM"),
        ("As ChatGPT I cannot", "ChatGPT"),
        ("Two llamas graze.", None),
        ("A llama grazes.", "LLaMA"),
        ("I live by the Rhine.", None),
        ("", None),
    ],
)
def test_what_gives_a_model_away(text: str, word: str | None) -> None:
    assert given_away_by(text, [ALPHA, "ppo"]) == word


def test_names_that_say_nothing() -> None:
    assert names_of("sft") == []
    assert names_of("runs/ppo/model") == ["runs/ppo/model"]
    assert names_of("HuggingFaceTB/SmolLM2-135M-Instruct") == [
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "SmolLM2-135M-Instruct",
        "SmolLM2",
        "SmolLM",
    ]


def test_the_table_is_what_evaluate_votes_reads(database: Database, tmp_path: Path) -> None:
    with database.write() as connection:
        me, other = add_person(connection, "p-1"), add_person(connection, "p-2", group="held_out")
        expected: list[tuple[str, str, float]] = []
        for who, choice, place in ((me, "answer", 0), (other, "answer", 1), (me, "tie", None), (me, "bad", None)):
            view = compare(connection, who, "=1+1 is two", "I am alpha-7b", text="=cmd()")
            blind_votes.vote(connection, view.turns[0].id, who, choice=choice, position=place)
            models = [answer.model or "" for answer in conversations.own(connection, view.id, who).turns[0].answers]
            expected.append((models[0], models[1], 0.5 if place is None else float(place == 0)))
        withdrawn = compare(connection, me)
        blind_votes.vote(connection, withdrawn.turns[0].id, me, choice="tie", position=None)
        consent.withdraw_turn(connection, withdrawn.turns[0].id, me)
        file = io.StringIO(newline="")
        assert blind_votes.write_csv(blind_votes.votes_cast(connection), file) == 4
        assert "=cmd()" in file.getvalue()
        assert ",=cmd" not in file.getvalue(), "a spreadsheet would take a prompt for a formula"
        assert list(blind_votes.votes_cast(connection, gave_away=False)) == []
    path = tmp_path / "votes.csv"
    path.write_text(file.getvalue(), newline="")
    votes = votes_of_file(path, Selection(), {})
    assert not votes.bad
    assert [(v.model_a, v.model_b, v.outcome) for v in votes.votes] == expected
    assert [v.labeler for v in votes.votes] == ["p-1", "p-2", "p-1", "p-1"]
    assert votes.votes[0].lengths == (11.0, 13.0)


def test_the_text_of_a_flagged_turn_is_not_in_the_table(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "votes.csv"
    with database.write() as connection, path.open("w", newline="", encoding="utf-8") as file:
        me = add_person(connection, "p-1")
        view = begin(connection, me, "Write to anna@example.org", layout="compare", models=(ALPHA, BETA))
        connection.execute(update(conversation_turn).values(flags=["personal data: email"]))
        answer_all(connection, view, "The Rhine.", "The Nile.")
        blind_votes.vote(connection, view.turns[0].id, me, choice="answer", position=0)
        blind_votes.write_csv(blind_votes.votes_cast(connection), file)
    assert "anna" not in path.read_text()
    votes = votes_of_file(path, Selection(), {})
    assert (len(votes.votes), len(votes.bad)) == (1, 0)


def test_users_from_outside_are_a_group_of_their_own(database: Database) -> None:
    with database.write() as connection:
        for name, role, group in (("lou", "labeler", "training"), ("ann", "labeler", "held_out"), ("uma", "user", "training")):
            who = add_person(connection, name, role=role, group=group)
            blind_votes.vote(connection, compare(connection, who).turns[0].id, who, choice="answer", position=0)
        file = io.StringIO(newline="")
        blind_votes.write_csv(blind_votes.votes_cast(connection), file)
        exported = [row for row in playground_rows(connection) if row.get("task_kind") == "vote"]
    expected = {"lou": "training", "ann": "held_out", "uma": "user"}
    table = csv.DictReader(io.StringIO(file.getvalue(), newline=""))
    assert {row["labeler"]: row["group"] for row in table} == expected
    assert {row["labeler"]: row["metadata"]["group"] for row in exported} == expected


def test_the_table_has_the_markup_of_answers_that_it_leaves_out(tmp_path: Path) -> None:
    answers = ((0, "a", "# Rivers\n- **Nile**\n- Rhine"), (1, "b", "```\nNile\n```"))
    cast = Cast(
        turn_key="k", prompt="?", at=1.0, labeler="p-1", group="g", choice="tie", position=None, answers=answers, gave_away=[]
    )
    path = tmp_path / "votes.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        blind_votes.write_csv([cast], file)
    assert "Nile" not in path.read_text()
    (vote,) = votes_of_file(path, Selection(), {}).votes
    assert vote.styles == (TextStyle(2, 1, 1, 0), TextStyle(0, 0, 0, 1))
    assert vote.lengths == (27.0, 12.0)


def test_a_vote_for_one_of_three_says_nothing_of_the_others(database: Database) -> None:
    with database.write() as connection:
        me = add_person(connection, "p-1")
        view = answer_all(connection, begin(connection, me, layout="compare", models=("aaaa", "bbbb", "cccc")), "x", "", "z")
        blind_votes.vote(connection, view.turns[0].id, me, choice="answer", position=2)
        (cast,) = blind_votes.votes_cast(connection)
        models = [model for _, model, _ in cast.answers]
        assert [(p.model_a, p.model_b, p.winner) for p in blind_votes.pairs(cast)] == [
            (models[0], models[2], models[2]),
            (models[1], models[2], models[2]),
        ]


def test_bradley_terry_of_the_table_is_evalicas(tmp_path: Path) -> None:
    """Our scores of the exported table are those that evalica gives for the same rows."""
    evalica = pytest.importorskip("evalica", reason="evalica (extra dev) is not installed")
    draw = random.Random(3)
    casts: list[Cast] = []
    for number in range(300):
        models = draw.sample(["acme/alpha-7b", "b", "=gamma", "delta"], k=draw.choice((2, 3)))
        choice = draw.choice(("answer", "answer", "tie", "bad"))
        casts.append(
            Cast(
                turn_key=f"k{number}",
                prompt="Name, one\nriver",
                at=1.0,
                labeler=f"p-{number % 7}",
                group="training",
                choice=choice,
                position=draw.randrange(len(models)) if choice == "answer" else None,
                answers=tuple((place, model, "x" * draw.randrange(500)) for place, model in enumerate(models)),
                gave_away=[],
            )
        )
    path = tmp_path / "votes.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        number = blind_votes.write_csv(casts, file)
    with path.open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert len(table) == number > 300
    won = {"tie": evalica.Winner.Draw, "both_bad": evalica.Winner.Draw}
    winners = [
        won.get(row["winner"], evalica.Winner.X if row["winner"] == row["model_a"] else evalica.Winner.Y) for row in table
    ]
    first, second = [row["model_a"] for row in table], [row["model_b"] for row in table]
    theirs = evalica.bradley_terry(first, second, winners, tolerance=1e-13, limit=100_000).scores
    logs = np.log(theirs) - np.log(theirs).mean()
    ours = bradley_terry(*votes_of_file(path, Selection(), {}).columns()).scores
    assert {name: estimate.value for name, estimate in ours.items()} == pytest.approx(logs.to_dict(), abs=1e-9)
