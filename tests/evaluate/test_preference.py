"""Judgements become win rates, by hand on a few prompts; the intervals themselves are tested with heedful.statistics."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from tests.evaluate.invented import minimal_results

from heedful.conversation import turns_of
from heedful.errors import DataError
from heedful.evaluate.preference import (
    Judgement,
    closed_domain_section,
    judgements_from_rankings,
    preference_section,
    ratings_section,
)
from heedful.evaluate.results import Group, Results
from heedful.evaluate.results_file import check_results
from heedful.records import Prompt, Ranking, Rating, Response

PROMPTS = {
    name: Prompt(id=name, turns=turns_of("Say it."), use_case="chat" if name == "p1" else "extract") for name in ("p1", "p2")
}
RESPONSES = {
    f"{prompt}-{model}": Response(id=f"{prompt}-{model}", prompt_id=prompt, text="so", model=model)
    for prompt in PROMPTS
    for model in ("base", "sft", "ppo")
}
GROUPS: dict[str, Group] = {"al": "training", "ann": "training", "bo": "held_out"}
PAIRS = [("base", "sft"), ("ppo", "sft"), ("ppo", "base")]


def _ranking(prompt: str, labeler: str, **ranks: int) -> Ranking:
    ids = tuple(f"{prompt}-{model}" for model in ranks)
    return Ranking(id=f"{prompt}-{labeler}", prompt_id=prompt, response_ids=ids, ranks=tuple(ranks.values()), labeler=labeler)


RANKINGS = [
    _ranking("p1", "bo", base=3, sft=2, ppo=1),
    _ranking("p2", "bo", base=2, sft=1, ppo=1),
    _ranking("p1", "ann", base=1, sft=2),
]


def _judgement(outcome: float, **changes: str) -> Judgement:
    fields = {"model": "ppo", "against": "sft", "prompt_id": "p1", "use_case": "chat", "labeler": "bo"} | changes
    return Judgement(**fields, group="held_out", outcome=outcome)


def test_a_ranking_holds_every_pair_with_ties_one_half() -> None:
    found = judgements_from_rankings(RANKINGS, RESPONSES, PROMPTS, GROUPS, PAIRS)
    assert [(row.prompt_id, row.labeler, row.model, row.against, row.outcome) for row in found] == [
        ("p1", "bo", "base", "sft", 0.0),
        ("p1", "bo", "ppo", "sft", 1.0),
        ("p1", "bo", "ppo", "base", 1.0),
        ("p2", "bo", "base", "sft", 0.0),
        ("p2", "bo", "ppo", "sft", 0.5),
        ("p2", "bo", "ppo", "base", 1.0),
        ("p1", "ann", "base", "sft", 1.0),
    ]
    assert {(row.group, row.use_case) for row in found} == {("held_out", "chat"), ("held_out", "extract"), ("training", "chat")}


def test_the_section_by_hand() -> None:
    section = preference_section(judgements_from_rankings(RANKINGS, RESPONSES, PROMPTS, GROUPS, PAIRS), "sft", 1.0)
    rates = {(row["model"], row["group"]): (row["win_rate"], row["num_comparisons"]) for row in section["win_rates"]}
    assert rates == {("base", "held_out"): (0.0, 2), ("base", "training"): (1.0, 1), ("ppo", "held_out"): (0.75, 2)}
    duels = [(row["model"], row["against"], row["group"], row["win_rate"]) for row in section["head_to_head"]]
    assert duels == [("ppo", "base", "held_out", 1.0)]
    cases = {(row["model"], row["use_case"]): row["win_rate"] for row in section["by_use_case"]}  # by bo alone: ann trained it
    assert cases == {("base", "chat"): 0.0, ("base", "extract"): 0.0, ("ppo", "chat"): 1.0, ("ppo", "extract"): 0.5}
    assert section["num_prompts"] == 2
    for row in section["win_rates"]:
        assert 0.0 <= row["low"] <= row["win_rate"] <= row["high"] <= 1.0


def test_the_order_of_the_judgements_changes_nothing() -> None:
    found = judgements_from_rankings(RANKINGS, RESPONSES, PROMPTS, GROUPS, PAIRS)
    shuffled = random.Random(0).sample(found, len(found))
    assert shuffled != found
    assert preference_section(shuffled, "sft", 1.0) == preference_section(found, "sft", 1.0)


def test_labelers_of_one_prompt_are_one_cluster() -> None:
    apart = [_judgement(float(index < 20), prompt_id=f"p{index}") for index in range(30)]
    many_prompts = [_judgement(row.outcome, prompt_id=f"{row.prompt_id}-{copy}") for copy in range(5) for row in apart]
    wide = preference_section(apart * 5, "sft", 1.0)["win_rates"][0]
    narrow = preference_section(many_prompts, "sft", 1.0)["win_rates"][0]
    assert wide["num_comparisons"] == narrow["num_comparisons"] == 150
    assert wide["high"] - wide["low"] > 1.5 * (narrow["high"] - narrow["low"])  # five labels of one prompt are not five prompts


def test_training_labelers_count_by_use_case_where_there_are_no_others() -> None:
    found = judgements_from_rankings(RANKINGS[2:], RESPONSES, PROMPTS, GROUPS, PAIRS)
    assert [row["win_rate"] for row in preference_section(found, "sft", 1.0)["by_use_case"]] == [1.0]


def test_no_judgement_is_an_empty_section_not_an_error() -> None:
    section = preference_section([], "sft", 1.0)
    assert section["win_rates"] == section["head_to_head"] == section["by_use_case"] == []
    assert section["num_prompts"] == 0


@pytest.mark.parametrize(
    ("ranking", "message"),
    [
        (_ranking("p1", "cy", base=1), "labeler that is not there"),
        (_ranking("p3", "bo", base=1), "prompt that is not there"),
        (Ranking(id="r", prompt_id="p1", response_ids=("p1-t5",), ranks=(1,), labeler="bo"), "response that is not there"),
        (Ranking(id="r", prompt_id="p1", response_ids=("p2-sft",), ranks=(1,), labeler="bo"), "a response to another prompt"),
    ],
)
def test_rankings_that_name_what_is_not_there_are_refused(ranking: Ranking, message: str) -> None:
    with pytest.raises(DataError, match=message):
        judgements_from_rankings([ranking], RESPONSES, PROMPTS, GROUPS, PAIRS)


def test_an_outcome_is_a_win_a_tie_or_a_loss() -> None:
    with pytest.raises(DataError, match=r"0\.7"):
        _judgement(0.7)


def _rating(name: str, response: str, labeler: str, overall: int, **flags: bool) -> Rating:
    return Rating(id=name, prompt_id=response[:2], response_id=response, labeler=labeler, overall=overall, flags=flags)


def test_ratings_by_hand() -> None:
    rows = ratings_section(
        [
            _rating("1", "p1-ppo", "bo", 7, hallucination=False, fails_task=False),
            _rating("2", "p2-ppo", "bo", 4, hallucination=True),
            _rating("3", "p1-sft", "ann", 2),
            _rating("4", "p1-sft", "al", 3),
        ],
        RESPONSES,
        GROUPS,
    )
    assert [(row["model"], row["group"], row["overall"], row["flags"]) for row in rows] == [
        ("ppo", "held_out", 5.5, {"fails_task": 0.0, "hallucination": 0.5}),
        ("sft", "training", 2.5, {}),
    ]
    assert (rows[0]["low"], rows[0]["high"]) == (4.0, 7.0)  # two prompts: a bootstrap can draw either twice
    assert (rows[1]["low"], rows[1]["high"]) == (None, None)  # one prompt says nothing about others
    with pytest.raises(DataError, match="response that is not there"):
        ratings_section([_rating("1", "p9-ppo", "bo", 7)], RESPONSES, GROUPS)


def test_hallucination_counts_on_closed_domain_prompts() -> None:
    """p2 is an extraction, so closed domain; p1 is a chat, unless labelers said so of it."""
    ratings = [
        _rating("1", "p1-ppo", "bo", 7, hallucination=True),
        _rating("2", "p2-ppo", "bo", 7, hallucination=False),
        _rating("3", "p2-ppo", "bo", 3, hallucination=True),
        _rating("4", "p2-ppo", "ann", 3),  # did not say
        _rating("5", "p2-base", "al", 2, hallucination=True),
    ]
    rows = closed_domain_section(ratings, RESPONSES, PROMPTS, GROUPS)
    assert [(row["model"], row["group"], row["rate"]["value"], row["rate"]["count"]) for row in rows] == [
        ("base", "training", 1.0, 1),
        ("ppo", "held_out", 0.5, 2),
    ]
    said = {**PROMPTS, "p1": replace(PROMPTS["p1"], metadata={"closed_domain": True})}
    said["p2"] = replace(PROMPTS["p2"], metadata={"closed_domain": False})
    rows = closed_domain_section(ratings, RESPONSES, said, GROUPS)
    assert [(row["model"], row["rate"]["value"], row["rate"]["count"]) for row in rows] == [("ppo", 1.0, 1)]
    assert closed_domain_section([], RESPONSES, PROMPTS, GROUPS) == []


def test_the_sections_fit_the_schema() -> None:
    results: Results = minimal_results()
    results["models"] = [{"name": name, "label": name, "size": "", "parameters": 1} for name in ("base", "sft", "ppo")]
    results["preference"] = preference_section(
        judgements_from_rankings(RANKINGS, RESPONSES, PROMPTS, GROUPS, PAIRS), "sft", 1.0
    )
    results["ratings"] = ratings_section([_rating("1", "p1-ppo", "bo", 7, hallucination=False)], RESPONSES, GROUPS)
    rated = [_rating("1", "p2-ppo", "bo", 7, hallucination=False)]
    results["closed_domain_hallucination"] = closed_domain_section(rated, RESPONSES, PROMPTS, GROUPS)
    assert check_results(results) == results
