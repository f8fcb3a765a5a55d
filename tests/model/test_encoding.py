from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny import END, tiny_tokenizer

from heedful.conversation import turns_of
from heedful.errors import DataError, MissingError
from heedful.model.encoding import (
    PretrainingText,
    encode_demonstrations,
    encode_documents,
    encode_prompts,
    encode_rankings,
    encode_response,
    epoch_order,
    read_documents,
)
from heedful.ranks.batch_shares import split_by_tokens
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


# ---------------------------------------------------------------- pretraining text


def text_of(lengths: list[int]) -> PretrainingText:
    """Documents in which every token is unlike all others, so that each can be followed."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return PretrainingText(np.arange(offsets[-1], dtype=np.int32), offsets)


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=20),
    st.integers(2, 16),
    st.integers(0, 5),
    st.booleans(),
)
def test_one_pass_gives_every_token_once_in_sequences_within_the_limit(
    lengths: list[int], context: int, seed: int, varied: bool
) -> None:
    text = text_of(lengths)
    shortest = max(2, context // 2) if varied else None
    sequences = list(text.sequences(context_length=context, rng=np.random.default_rng(seed), shortest=shortest))
    assert all(2 <= len(s) <= context for s in sequences)
    seen = np.concatenate([*sequences, np.empty(0, np.int32)])
    assert len(set(seen.tolist())) == len(seen)
    document = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(text.tokens)) - text.offsets[document]
    # Left out: only what would have stood alone, a one-token document or the one token left of a long one.
    for token in set(text.tokens.tolist()) - set(seen.tolist()):
        assert place[token] == lengths[document[token]] - 1
        assert place[token] % context == 0
    for sequence in sequences:
        assert place[sequence[0]] % context == 0  # a document's beginning, or it goes on with one longer than the context
        for before, after in itertools.pairwise(sequence.tolist()):
            ends = place[before] == lengths[document[before]] - 1
            assert place[after] == 0 if ends else after == before + 1


def test_the_order_of_the_documents_follows_the_seed() -> None:
    def first(seed: int) -> list[list[int]]:
        sequences = text_of([3] * 20).sequences(context_length=6, rng=np.random.default_rng(seed))
        return [s.tolist() for s in sequences]

    assert first(1) == first(1)
    assert first(1) != first(2)


def test_documents_end_with_end_of_text() -> None:
    text = encode_documents(TOKENIZER, ["w1 w2", "  \n", "w3"])
    assert text.tokens.tolist() == [1, 2, END, 3, END]
    assert text.offsets.tolist() == [0, 3, 5]
    assert text.num_documents == 2
    with pytest.raises(DataError, match="no pretraining text"):
        encode_documents(TOKENIZER, ["", "\n"])


def test_many_documents_are_encoded_in_batches() -> None:
    text = encode_documents(TOKENIZER, (f"w{1 + i % 60}" for i in range(4_500)))
    assert text.num_documents == 4_500
    assert text.tokens[::2].tolist() == [1 + i % 60 for i in range(4_500)]


def test_documents_from_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n<|endoftext|>\nthree\n\nfour\n")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "b.jsonl").write_text('{"text": "five\\nsix"}\n\n{"text": "seven é"}\n', encoding="utf-8")
    (tmp_path / "ignored.csv").write_text("eight")
    assert list(read_documents(tmp_path)) == ["one\ntwo", "three\n\nfour", "five\nsix", "seven é"]
    assert list(read_documents(tmp_path / "a.txt")) == ["one\ntwo", "three\n\nfour"]


def test_text_that_is_not_there_or_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no pretraining text"):
        list(read_documents(tmp_path / "nothing"))
    with pytest.raises(MissingError, match="no such file in it"):
        list(read_documents(tmp_path))
    file = tmp_path / "a.jsonl"
    for bad in ("not json", '["a"]', '{"words": "a"}', '{"text": null}', "3"):
        file.write_text('{"text": "good"}\n' + bad + "\n")
        documents = read_documents(file)
        assert next(documents) == "good"
        with pytest.raises(DataError, match="cannot be read") as caught:
            next(documents)
        assert caught.value.where == f"{file}:2"
    file.write_bytes(json.dumps({"text": "good"}).encode() + b'\n{"text": "\xff\xfe"}\n')
    with pytest.raises(DataError, match="cannot be read"):
        list(read_documents(file))


# ---------------------------------------------------------------- batches


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 60))
def test_minibatches_hold_every_index_once_in_order_and_stay_under_the_limit(lengths: list[int], tokens: int) -> None:
    groups = split_by_tokens(lengths, tokens=tokens)
    assert [i for group in groups for i in group] == list(range(len(lengths)))
    assert all(groups)
    assert all(len(group) == 1 or sum(lengths[i] for i in group) <= tokens for group in groups)
    for group, following in itertools.pairwise(groups):  # no group is closed too early
        assert sum(lengths[i] for i in group) + lengths[following[0]] > tokens


def test_an_epochs_order_depends_on_seed_and_epoch_alone() -> None:
    orders = [epoch_order(seed, epoch, 50).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert epoch_order(1, 1, 50).tolist() == orders[3]
