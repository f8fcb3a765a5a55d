from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.tiny import CONTEXT, END, VOCABULARY, last_hidden, plain, tiny_gpt2, tiny_llama, tiny_neox
from transformers import PreTrainedModel

from heedful.errors import UserError
from heedful.model import Generation, Sampling, generate
from heedful.model.engine import runner
from heedful.model.engine.sampling import request_seeds
from heedful.model.engine.slots import Slots

pytestmark = pytest.mark.usefixtures("with_and_without_loops")

ARCHITECTURES = [tiny_gpt2, tiny_llama, tiny_neox]


def random_prompts(count: int, *, longest: int = 20, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(1, VOCABULARY) for _ in range(rng.randrange(1, longest + 1))] for _ in range(count)]


def full_logprobs(model: PreTrainedModel, prompt: list[int], tokens: list[int]) -> list[float]:
    """Log-probs of generated tokens from one uncached forward of a plain transformers model."""
    hidden = last_hidden(plain(model), [*prompt, *tokens])[len(prompt) - 1 : -1]
    logits = hidden @ model.get_output_embeddings().weight.T  # pyright: ignore[reportOptionalMemberAccess]
    logprobs = logits.log_softmax(-1)
    return logprobs.gather(-1, torch.tensor(tokens)[:, None])[:, 0].tolist()


@pytest.mark.parametrize("make", ARCHITECTURES)
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 1.7])
def test_logprobs_from_the_cache_are_those_of_a_full_forward(make: Callable[[], PreTrainedModel], temperature: float) -> None:
    model = make()
    prompts = random_prompts(7)
    sampling = Sampling(max_tokens=12, temperature=temperature, stop_tokens=(END,))
    for prompt, generation in zip(prompts, generate(model, prompts, sampling, list(range(7))), strict=True):
        expected = full_logprobs(model, prompt, generation.tokens)
        np.testing.assert_allclose(generation.logprobs, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", ARCHITECTURES)
def test_greedy_is_what_transformers_generates(make: Callable[[], PreTrainedModel]) -> None:
    model = make()
    prompts = random_prompts(8, seed=1)
    generations = generate(model, prompts, Sampling(max_tokens=10, temperature=0.0), [0] * len(prompts))
    twin = plain(model, "sdpa")
    for prompt, generation in zip(prompts, generations, strict=True):
        ids = torch.tensor([prompt])
        output = twin.generate(  # pyright: ignore[reportCallIssue]
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=10,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert generation.tokens == output[0, len(prompt) :].tolist()
    assert len({tuple(g.tokens) for g in generations}) > 1


def same(left: list[Generation], right: list[Generation]) -> None:
    assert [g.tokens for g in left] == [g.tokens for g in right]
    assert [g.finished for g in left] == [g.finished for g in right]
    for one, two in zip(left, right, strict=True):
        np.testing.assert_allclose(one.logprobs, two.logprobs, rtol=0, atol=1e-5)


def test_a_request_gives_the_same_text_alone_in_a_batch_or_in_another_order() -> None:
    """Known traps: results that change with batch size; a random stream shared by the requests of a batch."""
    model = tiny_gpt2()
    prompts, seeds = random_prompts(12, seed=2), request_seeds(7, stream="test", count=12)
    sampling = Sampling(max_tokens=15, temperature=1.0, stop_tokens=(END,))
    together = generate(model, prompts, sampling, seeds)
    alone = [generate(model, [prompt], sampling, [seed])[0] for prompt, seed in zip(prompts, seeds, strict=True)]
    same(together, alone)
    same(together, generate(model, prompts[::-1], sampling, seeds[::-1])[::-1])
    same(together, generate(model, prompts, sampling, seeds, batch_size=5))
    same(together, generate(model, prompts, sampling, seeds))  # and again
    other = generate(model, prompts, sampling, request_seeds(8, stream="test", count=12))
    assert [g.tokens for g in other] != [g.tokens for g in together]


def test_equal_prompts_with_different_seeds_differ() -> None:
    generations = generate(tiny_gpt2(), [[3, 4]] * 20, Sampling(max_tokens=8), list(range(20)))
    assert len({tuple(g.tokens) for g in generations}) > 10


def eager_to_stop(raised: float = 2.5) -> PreTrainedModel:
    """A model that says end-of-text often, at different times."""
    model = tiny_gpt2(3, scale=0.15)
    with torch.no_grad():
        end = model.get_parameter("transformer.wte.weight")[END]
        model.get_parameter("transformer.ln_f.bias").add_(end * (raised / end.square().sum()))  # its logit, everywhere
    return model


def test_finished_requests_leave_the_batch_and_the_others_go_on_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    model = eager_to_stop(3.0)
    prompts, seeds = random_prompts(130, seed=3), list(range(130))
    sampling = Sampling(max_tokens=25, temperature=1.0, stop_tokens=(END,))
    sizes: list[int] = []
    remove = Slots.remove

    def watching(self: Slots, gone: set[int]) -> list[int]:
        order = remove(self, gone)
        sizes.append(self.rows)
        return order

    monkeypatch.setattr(Slots, "remove", watching)
    together = generate(model, prompts, sampling, seeds)
    assert len(sizes) >= 2
    assert max(sizes) > 64  # where the grid keeps some unused rows
    assert sizes == sorted(sizes, reverse=True)
    for i in range(0, 130, 13):
        same([together[i]], generate(model, [prompts[i]], sampling, [seeds[i]]))


def test_the_stop_token_is_part_of_the_generation_and_nothing_follows_it() -> None:
    model = eager_to_stop()
    prompts = random_prompts(40, seed=4)
    finished: list[int] = []
    generations = generate(
        model, prompts, Sampling(max_tokens=12, stop_tokens=(END,)), list(range(40)), advance=finished.append
    )
    assert sum(finished) == 40
    stopped = [g for g in generations if g.finished]
    cut = [g for g in generations if not g.finished]
    assert stopped
    assert cut
    for g in stopped:
        assert g.tokens[-1] == END
        assert END not in g.tokens[:-1]
        assert len(g.tokens) <= 12
    for g in cut:
        assert END not in g.tokens
        assert len(g.tokens) == 12
    assert all(len(g.logprobs) == len(g.tokens) for g in generations)


def test_without_a_stop_token_every_generation_is_max_tokens_long() -> None:
    generations = generate(eager_to_stop(), random_prompts(9), Sampling(max_tokens=6), list(range(9)))
    assert [len(g.tokens) for g in generations] == [6] * 9
    assert not any(g.finished for g in generations)


@pytest.mark.parametrize("max_tokens", [1, 2])
def test_one_token_prompts_and_one_token_responses(max_tokens: int) -> None:
    model = tiny_gpt2()
    generations = generate(model, [[5], [6, 7], [8]], Sampling(max_tokens=max_tokens), [1, 2, 3])
    for prompt, generation in zip([[5], [6, 7], [8]], generations, strict=True):
        assert len(generation.tokens) == max_tokens
        np.testing.assert_allclose(generation.logprobs, full_logprobs(model, prompt, generation.tokens), rtol=0, atol=1e-5)


def test_prompts_are_prefilled_in_parts_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_gpt2()
    prompts, sampling = random_prompts(9, seed=6), Sampling(max_tokens=5)
    whole = generate(model, prompts, sampling, list(range(9)))
    monkeypatch.setattr(runner, "_TOKENS_PER_PREFILL", 10)  # also shorter than some prompts
    same(whole, generate(model, prompts, sampling, list(range(9))))


def test_the_whole_context_window_can_be_used_and_no_more() -> None:
    model = tiny_gpt2()
    prompts = [[1] * (CONTEXT - 4), [2]]
    generations = generate(model, prompts, Sampling(max_tokens=4), [0, 1])
    np.testing.assert_allclose(
        generations[0].logprobs, full_logprobs(model, prompts[0], generations[0].tokens), rtol=0, atol=1e-5
    )
    with pytest.raises(UserError, match="context window") as caught:
        generate(model, prompts, Sampling(max_tokens=5), [0, 1])
    assert f"at most {CONTEXT} tokens" in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_put_back_and_dropout_is_off_while_generating(training: bool) -> None:
    model = tiny_gpt2().train(training)
    prompts = random_prompts(4)
    sampling = Sampling(max_tokens=6)
    generations = generate(model, prompts, sampling, [0, 1, 2, 3])
    assert model.training is training
    same(generations, generate(model.eval(), prompts, sampling, [0, 1, 2, 3]))


def test_wrong_arguments() -> None:
    model = tiny_gpt2()
    assert generate(model, [], Sampling(max_tokens=1), []) == []
    with pytest.raises(ValueError, match="a seed for each of 2"):
        generate(model, [[1], [2]], Sampling(max_tokens=1), [0])
    with pytest.raises(ValueError, match="at least 1"):
        generate(model, [[1]], Sampling(max_tokens=0), [0])
    with pytest.raises(ValueError, match="empty"):
        generate(model, [[]], Sampling(max_tokens=1), [0])
