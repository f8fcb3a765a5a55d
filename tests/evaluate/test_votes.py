"""Votes from tables, ratings and rankings; rows that give none are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from heedful.errors import ConfigError
from heedful.evaluate.votes import Vote, VoteColumns, votes_from_rankings, votes_from_ratings, votes_from_table
from heedful.records import Ranking, Rating, Response
from heedful.statistics import bradley_terry, two_way_difference, two_way_win_rate
from heedful.statistics.text_style import TextStyle


def table(folder: Path, content: str, name: str = "votes.csv") -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def vote(prompt: str, labeler: str, a: str, b: str, outcome: float, lengths: tuple[float, float] | None = None) -> Vote:
    plain = TextStyle(0, 0, 0, 0)
    styles = None if lengths is None else (plain, plain)
    return Vote(prompt=prompt, labeler=labeler, model_a=a, model_b=b, outcome=outcome, lengths=lengths, styles=styles)


def test_winner_loser_tie(tmp_path: Path) -> None:
    path = table(
        tmp_path, "winner,loser,tie,labeler,question_id\nx,y,False,ann,1\ny,x,true,bob,1\nx,x,no,ann,2\nx,y,maybe,ann,2\n"
    )
    found = votes_from_table(path)
    assert found.votes == (vote("1", "ann", "x", "y", 1), vote("1", "bob", "y", "x", 0.5))
    assert [(bad.where, bad.reason) for bad in found.bad] == [
        ("line 4", "both responses are the same model's"),
        ("line 5", "column 'tie' is 'maybe' instead of yes or no"),
    ]
    assert "2 votes (1 ties) on 2 models, 1 prompts, by 2 labelers; 2 rows gave none" in found.summary()


def test_model_a_and_b_with_many_words_for_the_winner(tmp_path: Path) -> None:
    lines = "".join(f"x,y,{word}\n" for word in ("model_a", "B", "tie", "tie (bothbad)", "x", "y", "left", "z"))
    found = votes_from_table(table(tmp_path, "model_a,model_b,winner\n" + lines))
    assert [one.outcome for one in found.votes] == [1, 0, 0.5, 0.5, 1, 0, 1]
    assert "'z' is neither" in found.bad[0].reason
    assert [one.prompt for one in found.votes][:2] == ["line 2", "line 3"]
    assert len(found.notes) == 2


def test_columns_named_in_the_call(tmp_path: Path) -> None:
    path = table(tmp_path, '{"who": 7, "best": "x", "rest": "y"}\n{"who": null, "best": "x", "rest": "y"}\nno\n', "votes.jsonl")
    found = votes_from_table(path, VoteColumns(winner="best", loser="rest", labeler="who"))
    assert found.votes == (vote("line 1", "7", "x", "y", 1),)
    assert [bad.where for bad in found.bad] == ["line 2", "line 3"]
    with pytest.raises(ConfigError, match="usual columns"):
        votes_from_table(path)


def test_lengths_of_texts_messages_and_columns_of_lengths(tmp_path: Path) -> None:
    """A text that looks like a number is a text of so many characters."""
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "abc"}, {"role": "assistant", "content": "de"}]
    rows: list[dict[str, object]] = [
        {"response_a": "1234", "response_b": talk},
        {"response_a": "", "response_b": None},
    ]
    lines = "".join(json.dumps({"winner": "a", "model_a": "x", "model_b": "y"} | row) + "\n" for row in rows)
    assert [one.lengths for one in votes_from_table(table(tmp_path, lines, "votes.jsonl")).votes] == [(4, 5), None]
    path = table(tmp_path, "winner,loser,winner_length,loser_length\nx,y,1234,7\nx,y,nan,7\n")
    assert [one.lengths for one in votes_from_table(path).votes] == [(1234, 7), None]


def test_markup_of_texts_and_columns_of_counts(tmp_path: Path) -> None:
    talk = [
        {"role": "user", "content": "- Hi"},
        {"role": "assistant", "content": "- a"},
        {"role": "assistant", "content": "# b"},
    ]
    line = json.dumps({"winner": "a", "model_a": "x", "model_b": "y", "response_a": "**a**", "response_b": talk})
    (found,) = votes_from_table(table(tmp_path, line, "votes.jsonl")).votes
    assert found.styles == (TextStyle(0, 0, 1, 0), TextStyle(1, 1, 0, 0))
    counts = [f"{feature}_{side}" for side in "ab" for feature in ("lists", "headers", "bold", "code_blocks")]
    rows = [f"winner,loser,length_a,length_b,{','.join(counts)}"]
    rows += [f"x,y,9,8,1,2,3,4,5,6,{number},0" for number in ("7", "", "-1")]
    votes = votes_from_table(table(tmp_path, "\n".join(rows) + "\n")).votes
    assert [one.styles for one in votes] == [(TextStyle(1, 2, 3, 4), TextStyle(5, 6, 7, 0)), None, None]
    assert [one.lengths for one in votes] == [(9, 8)] * 3


def test_some_columns_named_and_the_others_usual(tmp_path: Path) -> None:
    path = table(tmp_path, "model_a,model_b,best,who\nx,y,b,ann\n")
    found = votes_from_table(path, named={"winner": "best", "labeler": "who"})
    assert found.votes == (vote("line 2", "ann", "x", "y", 0),)
    with pytest.raises(ConfigError, match="no column 'bset'"):
        votes_from_table(path, named={"winner": "bset"})
    with pytest.raises(ConfigError, match="nothing in a vote is called 'winer'"):
        votes_from_table(path, named={"winer": "best"})


RESPONSES = {
    name: Response(id=name, prompt_id="p", text=name * length, model=model)
    for length, (name, model) in enumerate((("r1", "x"), ("r2", "y"), ("r3", "z"), ("r4", "x"), ("r5", None)), start=1)
}


def test_rankings() -> None:
    ranking = Ranking(id="k", prompt_id="p", response_ids=("r1", "r2", "r3"), ranks=(2, 1, 2), labeler="ann")
    again = Ranking(id="l", prompt_id="p", response_ids=("r1", "r4", "r5"), ranks=(1, 2, 3), labeler="ann")
    found = votes_from_rankings([ranking, again], RESPONSES)
    assert found.votes == (
        vote("p", "ann", "x", "y", 0, (2, 4)),
        vote("p", "ann", "x", "z", 0.5, (2, 6)),
        vote("p", "ann", "y", "z", 1, (4, 6)),
    )
    assert [bad.where for bad in found.bad] == ["ranking l"] * 3


def test_ratings() -> None:
    ratings = [
        Rating(id=str(i), prompt_id="p", response_id=response, labeler=labeler, overall=overall)
        for i, (response, labeler, overall) in enumerate(
            [("r1", "ann", 1), ("r1", "ann", 6), ("r2", "ann", 4), ("r3", "ann", 4), ("r1", "bob", 3)]
        )
    ]
    found = votes_from_ratings(ratings, RESPONSES)
    assert found.votes == (
        vote("p", "ann", "x", "y", 1, (2, 4)),
        vote("p", "ann", "x", "z", 1, (2, 6)),
        vote("p", "ann", "y", "z", 0.5, (4, 6)),
    )
    assert [bad.where for bad in found.bad] == ["rating 4"]


def test_votes_go_into_the_statistics(tmp_path: Path) -> None:
    """Two prompts, two labelers; x and y against base, and each other once."""
    rows = ["x,base,a", "y,base,b", "base,x,tie", "y,base,a"]
    lines = [f"{row},{labeler},{prompt}" for prompt in (1, 2) for labeler in ("ann", "bob") for row in rows]
    found = votes_from_table(table(tmp_path, "model_a,model_b,winner,judge,prompt\n" + "\n".join(lines) + "\n"))
    assert two_way_win_rate(*found.against("x", "base")).value == 0.75
    assert two_way_win_rate(*found.against("base", "x")).value == 0.25
    first, second, prompts, labelers = found.paired("x", "y", "base")
    assert (first, second) == ([0.75] * 4, [0.5] * 4)
    assert two_way_difference(first, second, prompts, labelers).value == 0.25
    assert list(bradley_terry(*found.columns()).scores) == ["x", "base", "y"]
