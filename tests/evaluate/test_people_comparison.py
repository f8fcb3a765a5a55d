"""Win rates, means and Table 3 rates of an evaluation by labelers, against numbers worked out by hand."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest

from heedful.errors import ConfigError, DataError
from heedful.evaluate.people_comparison import Judged, compare_by_people, people_numbers
from heedful.evaluate.people_page import kind_and_size, people_in_words, people_tables, write_people_page
from heedful.evaluate.results import Group
from heedful.records import Prompt, Ranking, Rating, Response, Turn, UseCase
from heedful.statistics import two_way_win_rate

GROUPS: dict[str, Group] = {"ann": "held_out", "bob": "held_out", "eve": "training"}
HOSTILE = "<script>alert('w')</script>"
RANKS = {
    ("p0", "ann"): (1, 2, 3),
    ("p0", "bob"): (1, 1, 2),
    ("p1", "ann"): (2, 1, 3),
    ("p1", "bob"): (1, 2, 2),
    ("p2", "ann"): (2, 2, 1),
    ("p0", "eve"): (3, 1, 2),
    ("p1", "eve"): (3, 2, 1),
}
"""Ranks of new, old and base."""
OVERALL = {("p0", "ann"): (7, 4, 1), ("p1", "bob"): (6, 4, 2), ("p0", "eve"): (2, 5, 3)}
MODELS = ("new", "old", "base")


def judged(ranks: dict[tuple[str, str], tuple[int, ...]] = RANKS) -> Judged:
    cases: tuple[UseCase, ...] = ("brainstorming", "closed_qa", "closed_qa")
    prompts = {
        f"p{i}": Prompt(id=f"p{i}", turns=(Turn("user", f"ask {i}"),), split="test", use_case=case)
        for i, case in enumerate(cases)
    }
    responses = [
        Response(id=f"{model}-{prompt}", prompt_id=prompt, text=HOSTILE if model == "new" else "yes", model=model)
        for prompt in prompts
        for model in MODELS
    ]
    rankings = [
        Ranking(
            id=f"{prompt} {labeler}",
            prompt_id=prompt,
            response_ids=tuple(f"{model}-{prompt}" for model in MODELS),
            ranks=given,
            labeler=labeler,
        )
        for (prompt, labeler), given in ranks.items()
    ]
    ratings = [
        Rating(
            id=f"{prompt} {labeler} {model}",
            prompt_id=prompt,
            response_id=f"{model}-{prompt}",
            labeler=labeler,
            overall=overall,
            flags={"hallucination": model == "old" and prompt == "p0"},
        )
        for (prompt, labeler), given in OVERALL.items()
        for model, overall in zip(MODELS, given, strict=True)
    ]
    return Judged(
        prompts=prompts, responses={one.id: one for one in responses}, rankings=rankings, ratings=ratings, groups=GROUPS
    )


def test_win_rates_by_hand_for_each_group_apart() -> None:
    found = compare_by_people(judged(), baseline="old")
    held_out, training = found.groups
    assert (held_out.group, training.group) == ("held_out", "training")
    (new,) = [pair for pair in held_out.against_baseline.pairs if pair.model == "new"]
    # ann wins p0 and loses p1, bob ties p0 and wins p1, ann ties p2: (1 + 0.5 + 0 + 1 + 0.5) / 5
    assert (new.other, new.num_votes, new.num_ties, new.win_rate.value) == ("old", 5, 2, pytest.approx(0.6))
    by_hand = two_way_win_rate([1, 0.5, 0, 1, 0.5], ["p0", "p0", "p1", "p1", "p2"], ["ann", "bob", "ann", "bob", "ann"])
    assert new.win_rate.two_way == by_hand.two_way
    assert len({one.low for one in (new.win_rate.two_way, new.win_rate.by_prompt, new.win_rate.naive)}) == 3
    (other,) = [pair for pair in training.against_baseline.pairs if pair.model == "new"]
    assert other.win_rate.value == 0
    assert len(held_out.pairs) == 3


def test_pairs_without_the_baseline_by_hand() -> None:
    held_out = compare_by_people(judged(), baseline="old").groups[0]
    (pair,) = [pair for pair in held_out.pairs if {pair.model, pair.other} == {"new", "base"}]
    wins_of_new = pair.win_rate.value if pair.model == "new" else 1 - pair.win_rate.value
    assert wins_of_new == pytest.approx(4 / 5)


def test_means_and_table_3_by_hand() -> None:
    held_out = compare_by_people(judged(), baseline="old").groups[0]
    rated = {one.model: one for one in held_out.rated}
    assert {name: one.overall.value for name, one in rated.items()} == {"new": 6.5, "old": 4.0, "base": 1.5}
    assert rated["old"].flags["hallucination"].value == 0.5
    assert rated["new"].flags["hallucination"].value == 0
    assert "fails_task" not in rated["new"].flags


def test_win_rates_by_use_case_by_hand() -> None:
    held_out = compare_by_people(judged(), baseline="old").groups[0]
    rates = {(one.use_case, one.model): (one.num_votes, one.win_rate.value) for one in held_out.use_cases}
    assert rates["brainstorming", "new"] == (2, pytest.approx(0.75))
    assert rates["closed_qa", "new"] == (3, pytest.approx(0.5))
    assert rates["closed_qa", "base"] == (3, pytest.approx((0 + 0.5 + 1) / 3))


def test_a_group_that_said_nothing_is_named() -> None:
    found = compare_by_people(judged({key: ranks for key, ranks in RANKS.items() if key[1] != "eve"}), baseline="old")
    assert [one.group for one in found.groups] == ["held_out"]
    assert found.notes == ("training labelers have ranked nothing",)
    assert "note: training labelers have ranked nothing" in people_in_words(found)
    with pytest.raises(DataError, match="no labeler has ranked"):
        compare_by_people(judged({}), baseline="old")


def test_a_baseline_without_votes_and_an_unknown_labeler_are_refused() -> None:
    with pytest.raises(ConfigError, match="the baseline has no votes"):
        compare_by_people(judged(), baseline="other")
    with pytest.raises(DataError, match="in no group"):
        compare_by_people(judged({("p0", "zoe"): (1, 2, 3)}), baseline="old")


def test_words_numbers_and_page_agree_and_hostile_text_stays_text(tmp_path: Path) -> None:
    found, data = compare_by_people(judged(), baseline="old"), judged()
    words = people_in_words(found)
    assert "held-out labelers: 15 votes" in words
    assert "training labelers: 6 votes" in words
    (line,) = [line for line in words.splitlines() if line.split()[:4] == ["new", "old", "5", "2"]][:1]
    assert "60.0 %" in line
    numbers = people_numbers(found)
    pair = next(p for p in numbers["groups"]["held_out"]["pairs"] if {p["model"], p["other"]} == {"new", "old"})
    assert pair["votes"] == 5
    write_people_page(found, data, tmp_path / "report.html", project="<b>mine</b>", simulated=True, unfinished=None)
    page = (tmp_path / "report.html").read_text()
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert "<b>mine" not in page
    assert "<td>60.0 %</td>" in page
    assert "Simulated labelers" in page
    assert "Not complete" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_prompts_written_for_instruct_and_base_models_apart_by_hand() -> None:
    data = judged()
    assert compare_by_people(data, baseline="old").groups[0].written_for == ()
    said = {"p0": "instruct", "p1": "base", "p2": "base"}
    prompts = {name: replace(prompt, metadata={"written_for": said[name]}) for name, prompt in data.prompts.items()}
    found = compare_by_people(replace(data, prompts=prompts), baseline="old")
    rates = {(one.written_for, one.model): (one.num_votes, one.win_rate.value) for one in found.groups[0].written_for}
    assert rates["instruct", "new"] == (2, pytest.approx(0.75))
    assert rates["base", "new"] == (3, pytest.approx(0.5))
    words = people_in_words(found)
    assert "written for" in words
    assert people_numbers(found)["groups"]["held_out"]["written_for"][0]["written_for"] == "base"


def test_models_of_several_sizes_are_grouped(tmp_path: Path) -> None:
    names = {"new": "ppo@6B", "old": "sft", "base": "ppo@1.3B"}
    data = judged()
    responses = {name: replace(one, model=names[str(one.model)]) for name, one in data.responses.items()}
    found = compare_by_people(replace(data, responses=responses), baseline="sft")
    (table,) = [table for table in people_tables(found.groups[0], 0.95) if table.title.startswith("by size")]
    assert table.rows[0] == ["", "model", "1.3B", "6B"]
    assert table.rows[1][:2] == ["win rate against sft", "ppo"]
    assert table.rows[1][2].startswith("30.0 %")  # 0, 0, 0, 0.5 and 1 of 5
    assert table.rows[1][3].startswith("60.0 %")
    assert [row[0] for row in table.rows[2:]] == ["hallucination"]
    assert not [
        table for table in people_tables(compare_by_people(data, baseline="old").groups[0], 0.95) if "size" in table.title
    ]


@pytest.mark.parametrize(
    ("name", "found"),
    [("ppo@1.3B", ("ppo", "1.3B")), ("ppo@best", ("ppo@best", "")), ("ppo", ("ppo", "")), ("@6B", ("@6B", ""))],
)
def test_kind_and_size(name: str, found: tuple[str, str]) -> None:
    assert kind_and_size(name) == found


def test_scores_at_equal_length() -> None:
    """Longer answers of one model win; at equal length the models are closer."""
    data = judged()
    longer = {f"new-p{i}": "word " * (2 + 9 * i) for i in range(3)} | {f"old-p{i}": "word " * (9 - 3 * i) for i in range(3)}
    responses = {name: replace(one, text=longer.get(name, "w " * (len(name) % 3 + 3))) for name, one in data.responses.items()}
    data = replace(data, responses=responses)
    assert compare_by_people(data, baseline="old").groups[0].against_baseline.at_equal_length is None
    held_out = compare_by_people(data, baseline="old", controls=["length"]).groups[0]
    assert held_out.against_baseline.at_equal_length is not None
    assert [table for table in people_tables(held_out, 0.95) if table.title == "the same at equal length of the responses"]


def test_scores_at_equal_style() -> None:
    """The new model's answers have lists, and of the labelers those win; the table names what counted, beside plain scores."""
    data = judged()
    listed = {f"new-p{i}": "- one\n" * (i + 1) for i in range(3)} | {"old-p0": "- one\n- two\n- three\n- four"}
    responses = {name: replace(one, text=listed.get(name, "w " * (len(name) % 3 + 3))) for name, one in data.responses.items()}
    found = compare_by_people(replace(data, responses=responses), baseline="old", controls=["style"]).groups[0]
    compared = found.against_baseline
    assert compared.at_equal_length is None
    assert compared.at_equal_style is not None
    assert list(compared.at_equal_style.effects) == ["length", "lists"]
    assert (
        "at equal style: without headers, bold, code blocks, of which both responses of every vote have as many"
        in compared.notes
    )
    tables = {table.title: table.rows for table in people_tables(found, 0.95)}
    assert tables["the same at equal length and style of the responses"][0] == [
        "model",
        "votes",
        "score",
        "two-way",
        "uncontrolled",
    ]
    assert [row[0] for row in tables["what a difference of one standard deviation adds, in log-odds"]] == [
        "feature",
        "length",
        "lists",
    ]
    plain = {row[0]: row[2] for row in tables["Bradley-Terry scores, log-odds against the average model, a tie as half a win"]}
    beside = {row[0]: row[4] for row in tables["the same at equal length and style of the responses"]}
    assert {name: plain[name] for name in beside if name != "model"} == {n: s for n, s in beside.items() if n != "model"}


def test_the_page_has_one_script_of_its_own(tmp_path: Path) -> None:
    data = judged()
    found = compare_by_people(data, baseline="old")
    write_people_page(found, data, tmp_path / "report.html", project="mine", simulated=False, unfinished=None)
    page = (tmp_path / "report.html").read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert page.count('<details class="transcript">') == 3
