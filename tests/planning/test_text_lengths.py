"""Percentiles by hand, what limits leave out, and limits that fit texts and context window."""

from __future__ import annotations

import pytest
from tests.tiny import tiny_tokenizer

from heedful.conversation import Turn
from heedful.planning.text_lengths import TextLengths, fitting_limits, limit_advice, mean, percentile, text_lengths
from heedful.project.data_folder import Records
from heedful.records import Demonstration, Prompt, Ranking, Response


def lengths(prompts: list[int], demonstrations: list[int] | None = None, outputs: list[int] | None = None) -> TextLengths:
    return TextLengths(
        prompts=tuple(sorted(prompts)),
        demonstrations=tuple(sorted(demonstrations or [])),
        outputs=tuple(sorted(outputs or [])),
    )


def test_percentiles_are_lengths_that_so_many_do_not_exceed() -> None:
    row = list(range(1, 101))
    assert [percentile(row, p) for p in (1, 50, 90, 99, 100)] == [1, 50, 90, 99, 100]
    assert [percentile([7], p) for p in (1, 50, 100)] == [7, 7, 7]
    assert percentile([1, 1, 1, 9], 75) == 1
    assert percentile([1, 1, 1, 9], 76) == 9


def test_the_effect_of_a_limit_is_counted() -> None:
    found = limit_advice(
        lengths([100] * 63 + [600] * 37, [50] * 9 + [900]), max_prompt_tokens=512, max_response_tokens=512, window=2_048
    )
    assert found.effects == (
        "max_prompt_tokens = 512 leaves out 37.0% of prompts",
        "max_response_tokens = 512 cuts 10.0% of demonstrations and outputs",
    )
    assert found.proposal == (
        "set max_prompt_tokens = 608 and max_response_tokens = 928 under [limits]: "
        "that leaves out 0.0% of prompts and cuts 0.0% of demonstrations and outputs"
    )


def test_limits_that_fit_are_left_alone() -> None:
    found = limit_advice(lengths([100] * 100, [50]), max_prompt_tokens=100, max_response_tokens=50, window=150)
    assert found.proposal == ""
    assert found.effects[0] == "max_prompt_tokens = 100 leaves out 0.0% of prompts"


def test_limits_past_the_window_are_named_though_all_texts_are_short() -> None:
    found = limit_advice(lengths([10] * 100, [20]), max_prompt_tokens=1_024, max_response_tokens=1_024, window=1_024)
    assert "together they allow 2,048 tokens; the model's context window has 1,024" in found.effects
    assert found.proposal.startswith("set max_prompt_tokens = 32 and max_response_tokens = 32 under [limits]")


def test_where_not_all_fits_the_response_gives_way_down_to_half_of_the_window() -> None:
    long = lengths([900] * 100, [900])
    assert fitting_limits(long, 1_024, 1_024, 1_024) == (512, 512)
    assert fitting_limits(lengths([300] * 100, [900]), 1_024, 1_024, 1_024) == (320, 704)
    assert fitting_limits(lengths([900] * 100, [100]), 1_024, 1_024, 1_024) == (896, 128)
    assert fitting_limits(lengths([]), 4_096, 1_000, 500) == (1_000, 500)
    for prompt, response, window in ((900, 900, 1_024), (30, 2_000, 512), (5_000, 1, 64)):
        limits = fitting_limits(lengths([prompt] * 9, [response]), window, 1_024, 1_024)
        assert sum(limits) <= window
        assert min(limits) >= 1


def test_a_window_without_room_is_said() -> None:
    found = limit_advice(lengths([900] * 100, [900]), max_prompt_tokens=512, max_response_tokens=512, window=1_024)
    assert found.effects[-1] == "the context window has no room for higher limits"
    assert found.proposal == ""


def test_texts_of_a_project() -> None:
    """Words are tokens; a response ends with end-of-text. Test prompts and labels that may not train do not count."""
    prompts = [
        Prompt(id="a", turns=(Turn(role="user", text="w1 w2 w3"),), split="train"),
        Prompt(id="b", turns=(Turn(role="user", text="w1"),), split="train"),
        Prompt(id="c", turns=(Turn(role="user", text="w1 w2 w3 w4 w5"),), split="test"),
    ]
    demonstrations = [Demonstration(id="d", prompt_id="a", text="w4 w5", labeler="ann")]
    responses = [
        Response(id="r1", prompt_id="b", text="w1 w2 w3 w4"),
        Response(id="r2", prompt_id="b", text="w1"),
        Response(id="r3", prompt_id="b", text="w1 w2 w3 w4 w5 w6 w7"),
    ]
    rankings = [
        Ranking(id="k1", prompt_id="b", response_ids=("r1", "r2"), ranks=(1, 2), labeler="ann"),
        Ranking(id="k2", prompt_id="b", response_ids=("r1", "r3"), ranks=(1, 2), labeler="ann", phase="evaluation"),
    ]
    found = text_lengths(tiny_tokenizer(), Records.of([*prompts, *demonstrations, *responses, *rankings]), "plain")
    assert found == lengths([3, 1], [3], [5, 2])
    assert found.kinds().keys() == {"prompts", "demonstrations", "ranked outputs"}
    assert found.responses == (3, 2, 5)
    assert text_lengths(tiny_tokenizer(), Records(), "plain") == lengths([])


def test_means_within_a_limit() -> None:
    assert mean([2, 4, 90], 6) == pytest.approx(4.0)
    assert mean([], 6) is None
