from __future__ import annotations

from types import SimpleNamespace

import pytest
from tests.tiny import tiny_tokenizer
from tests.training.interrupting import quiet

from heedful.align.choose import texts_within_window
from heedful.align.prefixes import candidate_prefixes, cut_answer, with_prefix
from heedful.conversation import turns_of
from heedful.records import Demonstration, Prompt, Response


@pytest.mark.parametrize(
    ("continuation", "expected"),
    [
        (" The fox is red.\nTask: Write", ("The fox is red.", True)),
        (" 1. fox\n2. bear\nTask:", ("1. fox\n2. bear", True)),
        (" The fox is", ("The fox is", False)),
    ],
)
def test_the_answer_ends_where_the_base_model_goes_on_with_a_task_of_its_own(
    continuation: str, expected: tuple[str, bool]
) -> None:
    answer = cut_answer(Response(id="r", prompt_id="p", text=continuation, model="base", finished=False))
    assert (answer.text, answer.finished) == expected
    assert (answer.id, answer.prompt_id, answer.model) == ("r", "p", "base")


def test_candidates_hold_only_short_training_demonstrations() -> None:
    prompts = {
        f"p{i}": Prompt(
            id=f"p{i}", turns=turns_of(f"Question {i}?\n" if i else "long " * 500), split="train" if i < 8 else "test"
        )
        for i in range(12)
    }
    demonstrations = [Demonstration(id=f"d{i}", prompt_id=f"p{i}", text=f"Answer {i}.", labeler="a") for i in range(12)]
    candidates = candidate_prefixes(prompts, demonstrations, seed=0, count=4)
    assert len(candidates) == 4
    for candidate in candidates:
        assert candidate.count("Task: Question") in (2, 3)
        assert not any(f"Answer {i}." in candidate for i in (0, 8, 9, 10, 11))
    assert with_prefix(candidates[0], "What?\n").endswith("\nTask: What?\nAnswer:")
    assert candidate_prefixes(prompts, demonstrations[:2], seed=0) == ()


def test_a_prompt_that_fills_the_window_goes_without_the_examples() -> None:
    tokenizer = tiny_tokenizer()
    prefix = with_prefix("", "a b") + " c\n"
    long = "a " * 60
    model = SimpleNamespace(
        config=SimpleNamespace(max_position_embeddings=len(tokenizer(with_prefix(prefix, "a"))["input_ids"]) + 8)
    )
    given = texts_within_window(model, tokenizer, ["a", long], prefix, max_response_tokens=8, console=quiet())
    assert given == [with_prefix(prefix, "a"), with_prefix("", long)]


def test_a_prompt_that_leaves_no_room_even_for_the_format_goes_as_it_is() -> None:
    tokenizer = tiny_tokenizer()
    exactly = "a " * 11 + "a"
    limit = len(tokenizer(exactly)["input_ids"])
    model = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=limit + 8))
    given = texts_within_window(
        model, tokenizer, ["a", exactly], "Task: b\nAnswer: c\n", max_response_tokens=8, console=quiet()
    )
    assert given[1] == exactly
    assert given[0] in (with_prefix("", "a"), with_prefix("Task: b\nAnswer: c\n", "a"))
