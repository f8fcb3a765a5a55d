"""Text that grows by tokens: nothing of a stop string leaks, characters come whole, pieces join to the whole text."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from tests.serve.small_models import TEXTS, tokenizer

from heedful.model.chat_template import Frame, without_frame
from heedful.model.template import encode
from heedful.serve.choice import Choice, Piece, cut
from heedful.serve.token_text import TokenText

NAMES = TokenText(tokenizer())


def written(tokens: Sequence[int], stop: Sequence[str] = (), *, end: bool = False) -> tuple[list[Piece], Choice]:
    """All pieces of a response of these tokens, up to its end."""
    choice = Choice(NAMES, stop, keep_logprobs=True)
    pieces: list[Piece] = []
    for i, token in enumerate(tokens):
        last = i == len(tokens) - 1
        piece = choice.add(token, -0.5, ending=("stop" if end else "length") if last else None)
        if piece is not None:
            pieces.append(piece)
        if choice.ending is not None:
            break
    return pieces, choice


def joined(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def random_tokens(rng: random.Random, count: int) -> list[int]:
    """Half from real text, whose characters are whole, half at random, whose bytes often are none."""
    if rng.random() < 0.5:
        return (encode(tokenizer(), ["".join(rng.choices(TEXTS, k=3))])[0] * 3)[:count]
    return [rng.randrange(2, len(tokenizer())) for _ in range(count)]


def test_two_hundred_random_stop_strings_never_leak() -> None:
    """At every token the text so far is the beginning of the final text, and that is the whole text cut at the stop string."""
    rng = random.Random(0)
    stopped = 0
    for _ in range(200):
        tokens = random_tokens(rng, rng.randrange(5, 60))
        whole = str(tokenizer().decode(tokens, skip_special_tokens=True))
        stop = []
        for _ in range(rng.randrange(1, 5)):
            start = rng.randrange(max(1, len(whole) - 1))
            stop.append(whole[start : start + rng.randrange(1, 9)] or "x")
        if rng.random() < 0.5:  # strings that only almost occur
            stop = [string + "\x01" for string in stop]
        pieces, choice = written(tokens, stop)
        text = joined(pieces)
        seen = str(tokenizer().decode(tokens[: choice.num_tokens], skip_special_tokens=True))
        assert text == cut(seen, stop)
        assert not any(string in text for string in stop)
        assert pieces[-1].ending == ("stop" if any(string in seen for string in stop) else "length")
        assert sum(piece.ending is not None for piece in pieces) == 1
        assert sum(len(piece.logprobs) for piece in pieces) == choice.num_tokens
        stopped += choice.ending == "stop"
    assert 60 < stopped < 140


def test_what_may_become_a_stop_string_is_held_back() -> None:
    tokens = encode(tokenizer(), ["The cat sat on"])[0]
    choice = Choice(NAMES, ["cat sat down"])
    text = ""
    for token in tokens[:-1]:
        piece = choice.add(token, -1.0)
        text += piece.text if piece is not None else ""
        assert not text.endswith("c")
        assert "cat" not in text
    last = choice.add(tokens[-1], -1.0, ending="length")
    assert last is not None
    assert text + last.text == "The cat sat on"


def test_the_stop_string_that_is_complete_first_counts() -> None:
    assert cut("abcabd", ["abd", "bc"]) == "a"
    assert cut("xabcx", ["abc", "bc"]) == "x"  # both end at the same character: the longer one
    assert cut("abc", ["d"]) == "abc"
    pieces, choice = written(encode(tokenizer(), ["The cat sat on the mat"])[0], ["t o", " sat"])
    assert joined(pieces) == "The cat"
    assert choice.ending == "stop"


@pytest.mark.parametrize("text", TEXTS)
def test_characters_of_several_tokens_come_whole(text: str) -> None:
    tokens = [token for character in text for token in encode(tokenizer(), [character])[0]]
    pieces, _ = written(tokens)
    assert joined(pieces) == text
    assert not any("�" in piece.text for piece in pieces)


def test_bytes_that_are_no_character_read_as_the_tokenizer_reads_them() -> None:
    rng = random.Random(1)
    for _ in range(300):
        tokens = [rng.randrange(len(tokenizer())) for _ in range(rng.randrange(1, 30))]
        pieces, _ = written(tokens)
        assert joined(pieces) == str(tokenizer().decode(tokens, skip_special_tokens=True))


def test_an_end_token_adds_no_text_but_is_counted() -> None:
    tokens = [*encode(tokenizer(), ["The cat"])[0], tokenizer().eos_token_id]
    pieces, choice = written(tokens, end=True)
    assert joined(pieces) == "The cat"
    assert choice.num_tokens == len(tokens)
    assert sum(len(piece.logprobs) for piece in pieces) == len(tokens)


def test_log_probs_come_with_their_text() -> None:
    """A token's name would tell what is held back."""
    tokens = encode(tokenizer(), ["The cat sat"])[0]
    choice = Choice(NAMES, ["The cat ran"], keep_logprobs=True)
    assert [choice.add(token, -1.0) for token in tokens[:2]] == [None, None]


def test_offsets_are_where_each_token_begins() -> None:
    text = "猫 sat 🙂 on"
    tokens = [token for character in text for token in encode(tokenizer(), [character])[0]]
    pieces, _ = written(tokens)
    offsets = [entry.offset for piece in pieces for entry in piece.logprobs]
    assert offsets == sorted(offsets)
    for token, offset in zip(tokens, offsets, strict=True):
        name = NAMES.name(token)
        assert name.startswith("bytes:") or text[offset : offset + len(name)] == name


@pytest.mark.parametrize("frame", [(" ", ""), ("<t></t>\n", ""), ("", " "), ("\n", " \n")])
@pytest.mark.parametrize("said", ["The cat", " cat ", "<t>", "<t></t>", "a\nb \n c", "", "🙂 "])
def test_what_a_chat_template_writes_around_an_answer_is_left_out(frame: tuple[str, str], said: str) -> None:
    """Piece by piece as from the whole text."""
    for text in (frame[0] + said + frame[1], said, frame[0] + said, said + frame[1]):
        tokens = [token for character in text for token in encode(tokenizer(), [character])[0]]
        choice = Choice(NAMES, ["zz"], frame=frame)
        pieces = [choice.add(token, -1.0) for token in tokens] + [choice.add(0, -1.0, ending="stop")]
        expected = without_frame(text, Frame(frame[0], f"{frame[1]}<end>", "<end>"))
        assert "".join(piece.text for piece in pieces if piece is not None) == expected, text


def test_one_space_after_a_colon_is_left_out() -> None:
    for text, said in ((" The cat", "The cat"), ("The cat", "The cat"), ("  cat", "  cat"), ("\n cat", "\n cat"), (" ", " ")):
        tokens = [token for character in text for token in encode(tokenizer(), [character])[0]]
        choice = Choice(NAMES, drop_space=True)
        pieces = [choice.add(token, -1.0, ending="length" if i == len(tokens) - 1 else None) for i, token in enumerate(tokens)]
        assert "".join(piece.text for piece in pieces if piece is not None) == said, text
