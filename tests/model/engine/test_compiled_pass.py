"""Models with rotary positions as one compiled pass: against plain transformers, and to the bit in any company."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import torch
from tests.tiny import (
    CONTEXT,
    END,
    VOCABULARY,
    WINDOW,
    finished,
    plain,
    tiny_gemma,
    tiny_gemma2,
    tiny_gemma3,
    tiny_gpt2,
    tiny_llama,
    tiny_mistral,
    tiny_neox,
    tiny_opt,
    tiny_qwen2,
    tiny_qwen3,
)
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from heedful.functional.fast import decoder, kernels
from heedful.functional.fast.decoder import PAGE, can_decode
from heedful.model import Engine, Generation, Sampling, add_adapter, generate
from heedful.model.attention import use_heedful_attention
from heedful.model.dropout import set_residual_dropout
from heedful.model.engine import paged_runner as paged_runner_module
from heedful.model.engine.page_pool import Pages
from heedful.model.engine.paged_runner import PagedRunner
from heedful.model.fast.rotary_decoder import rotary_decoder

pytestmark = pytest.mark.skipif(
    not kernels.usable(torch.zeros(1)) or not can_decode(torch.zeros(1)),
    reason="no C++ compiler on this machine, or a processor without AVX-512",
)
BFLOAT16 = kernels.usable(torch.zeros(1)) and can_decode(torch.zeros(1, dtype=torch.bfloat16))
Make = Callable[[], PreTrainedModel]
ROTARY: list[Make] = [tiny_llama, tiny_qwen2, tiny_qwen3, tiny_gemma, tiny_gemma2, tiny_gemma3, tiny_mistral]
each_family = pytest.mark.parametrize("make", ROTARY, ids=lambda make: make.__name__)
each_type = pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        pytest.param(torch.bfloat16, marks=pytest.mark.skipif(not BFLOAT16, reason="no bf16 products on this processor")),
    ],
    ids=["fp32", "bf16"],
)


def in_type(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    for parameter in model.parameters():  # not the buffers: rotary frequencies stay fp32
        parameter.data = parameter.data.to(dtype)
    return model


def random_prompts(seed: int, lengths: Sequence[int]) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(1, VOCABULARY) for _ in range(length)] for length in lengths]


def logprobs_of(model: PreTrainedModel, prompt: Sequence[int], tokens: Sequence[int]) -> Tensor:
    """Of generated tokens, from one forward pass of the whole sequence; float64."""
    with torch.no_grad():
        logits = cast(Any, model)(input_ids=torch.tensor([[*prompt, *tokens]]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return logits.double().log_softmax(-1).gather(-1, torch.tensor(list(tokens))[:, None])[:, 0]


def largest_error(model: PreTrainedModel, prompts: list[list[int]], generations: list[Generation]) -> float:
    return max(
        float((torch.tensor(g.logprobs).double() - logprobs_of(model, prompt, g.tokens)).abs().max())
        for prompt, g in zip(prompts, generations, strict=True)
    )


LENGTHS = (1, 2, WINDOW, PAGE - 1, PAGE, PAGE + 1, 40, 5)


@each_family
def test_the_families_run_as_compiled_passes(make: Make) -> None:
    """Otherwise the tests of tests/model/test_families.py would compare their classes with themselves."""
    assert rotary_decoder(make()) is not None
    assert isinstance(Engine(make())._runner, PagedRunner)


@each_family
@each_type
def test_logprobs_are_those_of_a_full_forward_of_the_same_weights(make: Make, dtype: torch.dtype) -> None:
    """In bf16 the pass rounds less often than the class: it is nearer to the fp32 forward of the rounded weights."""
    model = in_type(make(), dtype)
    prompts = random_prompts(1, LENGTHS)
    generations = generate(model, prompts, Sampling(max_tokens=PAGE + 9), list(range(len(prompts))))
    exact = in_type(plain(model), torch.float32)
    error = largest_error(exact, prompts, generations)
    if dtype == torch.float32:
        assert error < 1e-4
    else:
        assert error < 1.5 * largest_error(plain(model), prompts, generations)


@each_family
@each_type
def test_a_request_has_the_same_bits_alone_late_in_another_order_and_in_parts(
    make: Make, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = in_type(make(), dtype)
    prompts = random_prompts(2, [*LENGTHS, *LENGTHS, 33])
    prompts[4] = prompts[0]  # computed once
    sampling, seeds = Sampling(max_tokens=PAGE + 3, stop_tokens=(END,)), list(range(len(prompts)))
    together = generate(model, prompts, sampling, seeds)
    assert generate(model, prompts[::-1], sampling, seeds[::-1])[::-1] == together
    assert generate(model, prompts, sampling, seeds, batch_size=3) == together
    for i in (0, 4, 6):
        assert generate(model, [prompts[i]], sampling, [seeds[i]]) == [together[i]]
    engine, results, numbers = Engine(model, slots=5, admit_at=0.0), {}, []
    for prompt, seed in zip(prompts, seeds, strict=True):
        numbers += engine.submit(prompt, sampling, [seed])
        results |= finished(engine)
    while engine.num_unfinished:
        results |= finished(engine)
    assert [results[number] for number in numbers] == together
    monkeypatch.setattr(paged_runner_module, "_TOKENS_PER_PREFILL", 7)
    assert generate(model, prompts, sampling, seeds) == together


@each_type
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "_WORTH_THREADS", 0)
    model, prompts, sampling = in_type(tiny_qwen3(), dtype), random_prompts(3, LENGTHS), Sampling(max_tokens=9)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(generate(model, prompts, sampling, list(range(len(prompts)))))
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1] == found[2]


def test_penalties_and_likeliest_tokens_are_those_of_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llama()
    sampling = Sampling(max_tokens=12, presence_penalty=1.5, frequency_penalty=0.5, top_logprobs=3)

    def steps_of() -> list[tuple[int, int, list[int]]]:
        engine, found = Engine(model), []
        for seed, prompt in enumerate(random_prompts(8, (3, 40, 7))):
            engine.submit(prompt, sampling, [seed])
        while engine.num_unfinished:
            found += [(step.number, step.token, [token for token, _ in step.likeliest]) for step in engine.step()]
        return sorted(found, key=lambda step: step[0])

    ours = steps_of()
    assert len(ours) == 3 * 12
    assert all(len(likeliest) == 3 for _, _, likeliest in ours)
    monkeypatch.setattr(kernels, "usable", lambda _: False)
    assert steps_of() == ours


def llama(**changes: Any) -> PreTrainedModel:
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": CONTEXT,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": None,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**(shape | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return use_heedful_attention(model)


SHAPES: dict[str, dict[str, Any]] = {
    "one key head for each": {"num_key_value_heads": 4, "head_dim": 8},
    "groups of three": {"num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "hidden_size": 72},
    "groups of seven": {"num_attention_heads": 14, "num_key_value_heads": 2, "head_dim": 20, "hidden_size": 56},
    "a group of sixteen": {"num_attention_heads": 16, "num_key_value_heads": 1, "head_dim": 16},
    "wide heads": {"head_dim": 128},
    "heads of 80": {"head_dim": 80},
    "odd sizes": {"hidden_size": 36, "intermediate_size": 50, "head_dim": 6, "vocab_size": 101, "num_hidden_layers": 1},
    "biases": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "another activation": {"hidden_act": "gelu", "intermediate_size": 130},
    "linear rotary": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}},
    "Llama 3's rotary": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
    "YaRN": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10_000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
}


@pytest.mark.parametrize("shape", SHAPES)
@each_type
def test_every_shape_gives_the_logprobs_of_its_class(shape: str, dtype: torch.dtype) -> None:
    model = in_type(llama(**SHAPES[shape]), dtype)
    assert rotary_decoder(model) is not None
    prompts = random_prompts(4, (1, 3, 31, 32, 33, 50))
    generations = generate(model, prompts, Sampling(max_tokens=20), list(range(6)))
    error = largest_error(in_type(plain(model), torch.float32), prompts, generations)
    assert error < (2e-5 if dtype == torch.float32 else 1.5 * largest_error(plain(model), prompts, generations))


def test_rows_past_the_first_tables_and_many_pages() -> None:
    model = llama(max_position_embeddings=4_096)
    [prompt] = random_prompts(5, [700])
    [generation] = generate(model, [prompt], Sampling(max_tokens=40), [3])
    assert largest_error(plain(model), [prompt], [generation]) < 2e-5


@each_type
def test_what_was_never_written_is_never_read(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that are not numbers in fresh pages, and those of a request that left, reach nobody."""
    model, prompts = in_type(tiny_mistral(), dtype), random_prompts(6, LENGTHS)
    want = generate(model, prompts, Sampling(max_tokens=9), list(range(len(prompts))))
    grow = Pages._grow

    def poisoned(self: Pages, count: int) -> None:
        before = len(self._chunks)
        grow(self, count)
        for chunk in self._chunks[before:]:
            chunk.fill_(0xFF)

    monkeypatch.setattr(Pages, "_grow", poisoned)
    assert generate(model, prompts, Sampling(max_tokens=9), list(range(len(prompts)))) == want


# ---------------------------------------------------------------- pages


def test_samples_of_a_prompt_share_its_full_pages_and_give_all_back() -> None:
    engine = Engine(tiny_llama(), slots=8)
    runner = engine._runner
    assert isinstance(runner, PagedRunner)
    engine.submit([3] * (2 * PAGE + 1), Sampling(max_tokens=4), [1, 2, 3])
    engine.step()
    assert runner._pages.num_held == 2 + 3
    while engine.num_unfinished:
        engine.step()
    assert runner._pages.num_held == 0
    numbers = engine.submit([3] * (PAGE - 1), Sampling(max_tokens=4), [1, 2])
    engine.step()
    assert runner._pages.num_held == 2
    engine.step()
    engine.step()
    assert runner._pages.num_held == 4  # both have outgrown their first page
    engine.cancel(numbers[0])
    assert runner._pages.num_held == 2


def test_pages_are_used_again_and_copied_where_samples_part() -> None:
    pages = Pages(64)
    own = pages.take(3)
    assert len(set(own)) == 3
    shared = pages.share(own, 2 * PAGE + 5)
    assert shared[:2] == own[:2]
    assert shared[2] not in own
    pages.give_back(own)
    assert pages.num_held == 3
    [again] = pages.take(1)
    assert again == own[2]
    pages.give_back(shared)
    assert pages.num_held == 1


# ---------------------------------------------------------------- what runs through its class


def test_other_architectures_and_altered_models_run_through_their_class() -> None:
    """An adapter, a hook or a replaced forward computes something else than the weights tell."""
    for make in (tiny_gpt2, tiny_neox, tiny_opt):
        assert rotary_decoder(make()) is None
    hooked, replaced, other_class, adapted = (tiny_llama() for _ in range(4))
    hooked.base_model.get_submodule("layers.0.mlp").register_forward_hook(
        lambda module, inputs, output: torch.zeros_like(inputs[0])
    )
    replaced.base_model.get_submodule("layers.1.mlp").forward = lambda hidden: hidden
    cast(Any, other_class).model.norm = torch.nn.LayerNorm(32)
    for model in (hooked, replaced, other_class, add_adapter(adapted, 2, "float32")):
        assert rotary_decoder(model) is None
    dropped = tiny_llama()
    set_residual_dropout(dropped, 0.2)
    assert rotary_decoder(dropped) is None
    set_residual_dropout(dropped, 0.0)
    assert rotary_decoder(dropped) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}},
        {"hidden_act": "tanh"},
        {"intermediate_size": 49},
    ],
    ids=["rotary frequencies that change with the length", "an activation", "an odd number of inputs"],
)
def test_configurations_that_the_pass_does_not_know_run_through_their_class(changes: dict[str, Any]) -> None:
    model = llama(**changes)
    assert rotary_decoder(model) is None
    [generation] = generate(model, [[1, 2, 3]], Sampling(max_tokens=5), [0])
    assert largest_error(plain(model), [[1, 2, 3]], [generation]) < 2e-5


def test_capped_scores_and_mixed_types_run_through_their_class() -> None:
    assert rotary_decoder(tiny_gemma2(softcap=5.0)) is None
    mixed = tiny_llama()
    cast(Any, mixed).lm_head.to(torch.bfloat16)
    assert rotary_decoder(mixed) is None
    assert rotary_decoder(tiny_llama().to(torch.float64)) is None  # pyright: ignore[reportArgumentType]


def test_a_new_engine_sees_changed_weights() -> None:
    model, prompts, sampling = tiny_llama(), [[1, 2, 3]], Sampling(max_tokens=6, temperature=0.0)
    before = generate(model, prompts, sampling, [0])
    model.load_state_dict(tiny_llama(9).state_dict())
    assert generate(model, prompts, sampling, [0]) == generate(tiny_llama(9), prompts, sampling, [0]) != before


def test_a_copy_of_a_model_runs_as_a_compiled_pass_too() -> None:
    assert rotary_decoder(copy.deepcopy(tiny_llama())) is not None


# ---------------------------------------------------------------------------------------------------- long prompts in parts


def all_steps(engine: Engine) -> dict[int, Generation]:
    """Step until nothing is left; what each request got."""
    results: dict[int, Generation] = {}
    while engine.num_unfinished:
        results |= {step.number: step.generation for step in engine.step() if step.generation is not None}
    return results


@each_family
@each_type
@pytest.mark.parametrize("most", [1, PAGE - 1, PAGE, 50])
def test_a_prompt_computed_in_parts_gives_the_same_bits(make: Make, dtype: torch.dtype, most: int) -> None:
    model = in_type(make(), dtype)
    prompts = random_prompts(7, [*LENGTHS, 2 * PAGE, 2 * PAGE + 1, 51, 50])
    sampling = Sampling(max_tokens=9, stop_tokens=(END,))
    whole = generate(model, prompts, sampling, list(range(len(prompts))))
    engine = Engine(model, slots=5, admit_at=0, admit_tokens=most)
    numbers = [engine.submit(prompt, sampling, [seed])[0] for seed, prompt in enumerate(prompts)]
    results = all_steps(engine)
    assert [results[number] for number in numbers] == whole
    runner = engine._runner
    assert isinstance(runner, PagedRunner)
    assert runner._pages.num_held == 0
    assert runner._begun == {}


def test_several_samples_of_a_prompt_in_parts() -> None:
    prompt, sampling = random_prompts(8, [2 * PAGE + 5])[0], Sampling(max_tokens=5)
    whole = generate(tiny_llama(), [prompt] * 6, sampling, list(range(6)))
    engine = Engine(tiny_llama(), slots=4, admit_at=0, admit_tokens=PAGE)
    numbers = engine.submit(prompt, sampling, list(range(6)))
    results = all_steps(engine)
    assert [results[number] for number in numbers] == whole


def test_streams_go_on_while_a_long_prompt_is_computed() -> None:
    (long, short), sampling = random_prompts(9, [3 * PAGE - 8, 3]), Sampling(max_tokens=8)
    engine = Engine(tiny_llama(), slots=4, admit_at=0, admit_tokens=PAGE)
    (first,) = engine.submit(short, sampling, [1])
    engine.step()
    (second,) = engine.submit(long, sampling, [2])
    # Three parts: each step writes a token of the stream; the third step also draws the long prompt's first token.
    assert [[step.number for step in engine.step()] for _ in range(3)] == [[first], [first], [first, second]]


def test_a_prompt_that_is_cancelled_half_way_leaves_nothing() -> None:
    (long, other), sampling = random_prompts(10, [3 * PAGE - 8, 2 * PAGE]), Sampling(max_tokens=4)
    engine = Engine(tiny_llama(), slots=4, admit_at=0, admit_tokens=PAGE)
    runner = engine._runner
    assert isinstance(runner, PagedRunner)
    (number,) = engine.submit(long, sampling, [1])
    assert engine.step() == []
    assert runner._pages.num_held == 3
    engine.cancel(number)
    assert (runner._pages.num_held, engine.num_unfinished) == (0, 0)
    (number,) = engine.submit(other, sampling, [2])
    assert all_steps(engine)[number] == generate(tiny_llama(), [other], sampling, [2])[0]
