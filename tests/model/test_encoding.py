from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.tiny import END, tiny_tokenizer

from heedful.conversation import turns_of
from heedful.errors import DataError
from heedful.model.encoding import encode_demonstrations, encode_prompts, encode_rankings, encode_response
from heedful.records import Demonstration, Phase, Prompt, Ranking, Response

TOKENIZER = tiny_tokenizer()


def prompts(*texts: str) -> dict[str, Prompt]:
    return {f"p{i}": Prompt(id=f"p{i}", turns=turns_of(text)) for i, text in enumerate(texts)}


# ---------------------------------------------------------------- prompts, demonstrations, rankings


def test_a_prompt_over_the_limit_is_left_out_and_counted() -> None:
    given_prompts = list(prompts("w1 w2", "w1 w2 w3 w4", "w5 w6 w7").values())
    kept, tokens, counts = encode_prompts(TOKENIZER, given_prompts, max_tokens=3)
    assert [p.id for p in kept] == ["p0", "p2"]
    assert tokens == [[1, 2], [5, 6, 7]]
    assert (counts.used, counts.prompt_too_long) == (2, 1)
    assert str(counts) == "2 used; 1 left out: prompt over the limit"


@pytest.mark.parametrize(
    ("ids", "finished", "tokens", "cut"),
    [
        ([1, 2], True, [1, 2, END], False),
        ([1, 2, 3], True, [1, 2, 3], True),  # end-of-text does not fit: cut, and without it
        ([1, 2, 3, 4], True, [1, 2, 3], True),
        ([1, 2], False, [1, 2], False),  # it never finished: no end-of-text is made up
        ([1, 2, 3], False, [1, 2, 3], False),
        ([1, 2, 3, 4], False, [1, 2, 3], True),
        ([], True, [END], False),
        ([], False, [END], False),  # there must be a token to score
    ],
)
def test_the_end_of_a_response(ids: list[int], finished: bool, tokens: list[int], cut: bool) -> None:
    assert encode_response(ids, end=END, finished=finished, max_tokens=3) == (tokens, cut)


def test_demonstrations() -> None:
    texts = ["w1 w2", "", "w1 w2 w3 w4", "w7"]
    demonstrations = [Demonstration(id=str(i), prompt_id="p0", text=t, labeler="a") for i, t in enumerate(texts)]
    demonstrations.append(Demonstration(id="9", prompt_id="p1", text="w7", labeler="a"))
    examples, counts = encode_demonstrations(
        TOKENIZER, prompts("w9 w8", "w1 w2 w3 w4"), demonstrations, max_prompt_tokens=3, max_response_tokens=4
    )
    assert [(e.prompt, e.response) for e in examples] == [([9, 8], [1, 2, END]), ([9, 8], [1, 2, 3, 4]), ([9, 8], [7, END])]
    assert (counts.used, counts.empty_response, counts.response_cut, counts.prompt_too_long) == (3, 1, 1, 1)
    with pytest.raises(DataError, match="no demonstration can be used") as caught:
        encode_demonstrations(TOKENIZER, prompts("w9"), demonstrations[1:2], max_prompt_tokens=3, max_response_tokens=4)
    assert "1 left out: empty response" in str(caught.value)
    examples, counts = encode_demonstrations(
        TOKENIZER, prompts("w9"), demonstrations[1:2], max_prompt_tokens=3, max_response_tokens=4, may_be_empty=True
    )
    assert (examples, counts.empty_response) == ([], 1)


def ranking(number: int, prompt: str, responses: str, *ranks: int) -> Ranking:
    return Ranking(id=f"k{number}", prompt_id=prompt, response_ids=tuple(responses), ranks=ranks, labeler="a")


RESPONSES = {
    "a": Response(id="a", prompt_id="p0", text="w1"),
    "b": Response(id="b", prompt_id="p0", text=""),
    "c": Response(id="c", prompt_id="p0", text="w1 w2 w3 w4", finished=False),
    "d": Response(id="d", prompt_id="p0", text="w5 w6", finished=False),
}


def test_rankings() -> None:
    """K = 1 and all tied hold no comparison; a tie beside a comparison stays."""
    given_rankings = [
        ranking(0, "p0", "a", 1),
        ranking(1, "p0", "abc", 2, 2, 2),
        ranking(2, "p0", "abcd", 2, 1, 1, 3),
        ranking(3, "p1", "ab", 1, 2),
    ]
    ranked, counts = encode_rankings(
        TOKENIZER, prompts("w9", "w1 w2 w3 w4"), RESPONSES, given_rankings, max_prompt_tokens=3, max_response_tokens=3
    )
    assert len(ranked) == 1
    assert (ranked[0].prompt_id, ranked[0].response_ids, ranked[0].prompt) == ("p0", tuple("abcd"), [9])
    assert ranked[0].responses == [[1, END], [END], [1, 2, 3], [5, 6]]
    assert ranked[0].ranks == ((2, 1, 1, 3),)
    assert (counts.used, counts.no_comparison, counts.prompt_too_long, counts.response_cut) == (1, 2, 1, 1)
    assert "2 without a comparison (K = 1 or all tied): no effect" in str(counts)


def test_rankings_of_one_prompt_stand_together() -> None:
    """Two labelers who saw different responses of a prompt: each response once, rank 0 where a labeler did not see it."""
    given_rankings = [ranking(0, "p0", "ab", 1, 2), ranking(1, "p1", "ab", 2, 1), ranking(2, "p0", "dba", 1, 1, 2)]
    ranked, counts = encode_rankings(
        TOKENIZER, prompts("w9", "w8"), RESPONSES, given_rankings, max_prompt_tokens=3, max_response_tokens=3
    )
    assert [r.prompt_id for r in ranked] == ["p0", "p1"]
    assert ranked[0].response_ids == ("a", "b", "d")
    assert ranked[0].responses == [[1, END], [END], [5, 6]]
    assert ranked[0].ranks == ((1, 2, 0), (2, 1, 1))
    assert len(ranked[0].labelers) == 2
    assert counts.used == 3


def test_rankings_without_any_comparison_are_refused() -> None:
    for useless in ([ranking(0, "p0", "a", 1)], [ranking(0, "p0", "ab", 1, 1)], []):
        with pytest.raises(DataError, match="no ranking can be used"):
            encode_rankings(TOKENIZER, prompts("w9"), RESPONSES, useless, max_prompt_tokens=3, max_response_tokens=3)
        encoded, _ = encode_rankings(
            TOKENIZER, prompts("w9"), RESPONSES, useless, max_prompt_tokens=3, max_response_tokens=3, may_be_empty=True
        )
        assert encoded == []


@pytest.mark.parametrize("phase", ["evaluation", "screening"])
def test_what_was_ranked_for_evaluation_or_screening_trains_nothing(phase: Phase) -> None:
    mine, other = ranking(0, "p0", "ab", 1, 2), replace(ranking(1, "p0", "ad", 1, 2), phase=phase)
    given: dict[str, Any] = {"max_prompt_tokens": 3, "max_response_tokens": 3}
    with pytest.raises(DataError, match="the ranking 'k1' must not be used here") as caught:
        encode_rankings(TOKENIZER, prompts("w9"), RESPONSES, [mine, other], **given)
    assert (caught.value.expected, caught.value.got) == ("the phase training", f"the phase {phase}")
    responses = RESPONSES | {"b": replace(RESPONSES["b"], phase=phase)}
    with pytest.raises(DataError, match="the response 'b' must not be used here"):
        encode_rankings(TOKENIZER, prompts("w9"), responses, [mine], **given)
    _, counts = encode_rankings(TOKENIZER, prompts("w9"), responses, [mine, other], phases=("training", phase), **given)
    assert counts.used == 2
