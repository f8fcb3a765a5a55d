from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from heedful.conversation import turns_of
from heedful.errors import DataError, UserError
from heedful.project.exporting import comparisons
from heedful.records import RATING_FLAGS, USE_CASE_SHARES, Demonstration, Prompt, Ranking, Rating, Response


def ranking(**changes: Any) -> Ranking:
    values: dict[str, Any] = {
        "id": "k",
        "prompt_id": "p",
        "response_ids": ("a", "b", "c"),
        "ranks": (2, 1, 2),
        "labeler": "anna",
    }
    return Ranking(**(values | changes))


def test_a_prompt_keeps_its_text_to_the_last_space() -> None:
    assert Prompt(id="p", turns=turns_of("  Name a river.\n")).text == "  Name a river.\n"


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_prompt_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="prompt 'p' is not valid"):
        Prompt(id="p", turns=turns_of(text))


@pytest.mark.parametrize(("name", "value"), [("split", "training"), ("source", "web"), ("use_case", "poetry")])
def test_a_prompt_field_outside_its_list_is_refused_with_the_list(name: str, value: str) -> None:
    with pytest.raises(DataError) as caught:
        Prompt(id="p", turns=turns_of("x"), **{name: value})  # type: ignore[arg-type]
    assert name in str(caught.value.expected)
    assert caught.value.got == repr(value)
    assert caught.value.exit_code == 2


def test_the_ten_use_cases_have_table_1s_shares() -> None:
    # SPEC 1.5, Table 1 (per cent of the RM prompts), written down from the paper.
    paper = {
        "generation": 45.6,
        "open_qa": 12.4,
        "brainstorming": 11.2,
        "chat": 8.4,
        "rewrite": 6.6,
        "summarization": 4.2,
        "classification": 3.5,
        "other": 3.5,
        "closed_qa": 2.6,
        "extract": 1.9,
    }
    assert {case: pytest.approx(100 * share) for case, share in USE_CASE_SHARES.items()} == paper
    for case in paper:
        assert Prompt(id="p", turns=turns_of("x"), use_case=case).use_case == case  # type: ignore[arg-type]


def test_the_rating_form_has_table_3s_eleven_questions() -> None:
    assert len(RATING_FLAGS) == len(set(RATING_FLAGS)) == 11


@pytest.mark.parametrize("ranks", [(1,), (1, 1, 1), (1, 2, 2), (3, 7, 1)])
def test_weak_orders_of_any_k_are_legal(ranks: tuple[int, ...]) -> None:
    assert ranking(response_ids=("a", "b", "c")[: len(ranks)], ranks=ranks).ranks == ranks


@pytest.mark.parametrize(("ranks", "number"), [((1, 2, 3, 4), 6), ((2, 1, 2), 2), ((1, 1, 2, 2), 4), ((1, 1, 1), 0), ((1,), 0)])
def test_a_tie_is_no_comparison(ranks: tuple[int, ...], number: int) -> None:
    one = ranking(response_ids=("a", "b", "c", "d")[: len(ranks)], ranks=ranks)
    assert one.num_comparisons == len([*comparisons(one)]) == number


@pytest.mark.parametrize(
    "changes",
    [
        {"ranks": (1, 2)},
        {"ranks": (1, 2, 3, 4)},
        {"ranks": (0, 1, 2)},
        {"ranks": (-1, 1, 2)},
        {"response_ids": ("a", "b", "a")},
        {"response_ids": (), "ranks": ()},
    ],
)
def test_a_ranking_that_is_none_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="ranking 'k' is not valid"):
        ranking(**changes)


@pytest.mark.parametrize("overall", [0, 8])
def test_a_rating_outside_1_to_7_is_refused(overall: int) -> None:
    with pytest.raises(DataError, match="from 1 to 7"):
        Rating(id="g", prompt_id="p", response_id="a", labeler="anna", overall=overall)


def test_a_flag_that_is_not_on_the_form_is_refused() -> None:
    with pytest.raises(DataError, match="halucination"):
        Rating(id="g", prompt_id="p", response_id="a", labeler="anna", overall=1, flags={"halucination": True})


def test_an_empty_response_is_a_legal_answer() -> None:
    assert Response(id="r", prompt_id="p", text="").finished


def test_records_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Demonstration(id="d", prompt_id="p", text="x", labeler="anna").text = "y"  # type: ignore[misc]


def test_a_data_error_is_the_users() -> None:
    assert issubclass(DataError, UserError)
