"""A model answers records, a reward model scores them."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.tiny import CONTEXT, END, tiny_gpt2, tiny_tokenizer

from heedful.conversation import turns_of
from heedful.errors import DataError
from heedful.model import answering
from heedful.model.answering import Answerer, mean_reward, prompts_within, score_responses
from heedful.model.readout import score
from heedful.model.scalar_models import scalar_model_from_causal
from heedful.project.storable import unstorable
from heedful.records import Prompt, Response
from heedful.training.config import SFTConfig

TOKENIZER = tiny_tokenizer()
LIMITS = SFTConfig(max_prompt_tokens=4, max_response_tokens=6)
PROMPTS = [Prompt(id=f"p{i}", turns=turns_of(f"w{i} w{i + 1}")) for i in range(1, 6)]
MORE: dict[str, Any] = {"name": "m", "temperature": 1.0, "seed": 3}


def quiet() -> Console:
    return Console(file=io.StringIO(), width=120)


def answer(prompts: list[Prompt], **changed: Any) -> list[Response]:
    asked = MORE | {"ids": [f"r-{p.id}" for p in prompts], "console": quiet()} | changed
    return Answerer(tiny_gpt2(), TOKENIZER, LIMITS).answer(prompts, **asked)


def test_a_response_depends_on_its_own_id_and_the_seed_alone() -> None:
    together = answer(PROMPTS)
    assert [(r.id, r.prompt_id, r.model) for r in together] == [(f"r-{p.id}", p.id, "m") for p in PROMPTS]
    assert answer(PROMPTS[::-1]) == together[::-1]
    assert answer(PROMPTS[2:3]) == together[2:3]
    assert [r.text for r in answer(PROMPTS, seed=4)] != [r.text for r in together]


def test_a_nul_that_a_model_writes_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Import refuses it in people's texts; a byte-level model may sample it in the middle of a night."""
    plain = answering.decode_after
    monkeypatch.setattr(answering, "decode_after", lambda *given: [f"{text}\x00" for text in plain(*given)])
    for response in answer(PROMPTS):
        assert response.text.endswith("\ufffd")
        assert unstorable(response) is None


def test_a_text_in_place_of_the_prompt_may_fill_the_window_up_to_a_response() -> None:
    long = " ".join(["w1"] * (CONTEXT - LIMITS.max_response_tokens))
    (response,) = answer(PROMPTS[:1], texts=[long])
    assert response.prompt_id == "p1"
    with pytest.raises(DataError, match="the prompt 'p1' is over the limit"):
        answer(PROMPTS[:1], texts=[long + " w1"])
    with pytest.raises(DataError, match="the prompt 'long' is over the limit"):
        answer([*PROMPTS, Prompt(id="long", turns=turns_of("w1 w2 w3 w4 w5"))])


def test_scores_are_those_of_prompt_and_response_with_end_of_text_if_it_was_reached() -> None:
    torch.manual_seed(0)
    reward_model = scalar_model_from_causal(tiny_gpt2(), pad_token_id=None, eos_token_id=END)
    prompts = {p.id: p for p in PROMPTS}
    responses = [
        Response(id="a", prompt_id="p2", text="w7 w8"),
        Response(id="b", prompt_id="p1", text="w9", finished=False),
        Response(id="c", prompt_id="p1", text=""),
    ]
    want = score(reward_model, [[2, 3], [1, 2], [1, 2]], [[7, 8, END], [9], [END]]).tolist()
    got = score_responses(reward_model, TOKENIZER, prompts, responses, max_response_tokens=6)
    assert got == dict(zip("abc", want, strict=True))
    mean = mean_reward(reward_model, TOKENIZER, prompts, responses, max_response_tokens=6)
    assert mean == pytest.approx(sum(want) / 3)


def test_prompts_over_the_limit_are_left_out_and_counted() -> None:
    console = quiet()
    assert prompts_within(TOKENIZER, [*PROMPTS, Prompt(id="x", turns=turns_of("w1 w2 w3"))], 2, console) == PROMPTS
    assert "1 prompts over 2 tokens are left out" in console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_responses_that_are_cut_before_they_are_scored_are_counted() -> None:
    torch.manual_seed(0)
    reward_model = scalar_model_from_causal(tiny_gpt2(), pad_token_id=None, eos_token_id=END)
    prompts = {p.id: p for p in PROMPTS}
    responses = [
        Response(id="long", prompt_id="p1", text="w5 w6 w7 w8"),
        Response(id="fits", prompt_id="p1", text="w5 w6"),
        Response(id="unfinished", prompt_id="p1", text="w5 w6 w7", finished=False),
    ]
    console = quiet()
    got = score_responses(reward_model, TOKENIZER, prompts, responses, max_response_tokens=3, console=console)
    want = score(reward_model, [[1, 2]] * 3, [[5, 6, 7], [5, 6, END], [5, 6, 7]]).tolist()
    assert list(got.values()) == want
    said = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert said == "1 of 3 responses are scored at token 3: they are longer\n"
    mean_reward(reward_model, TOKENIZER, prompts, responses[1:], max_response_tokens=3, console=console)
    assert console.file.getvalue() == said  # pyright: ignore[reportAttributeAccessIssue]
