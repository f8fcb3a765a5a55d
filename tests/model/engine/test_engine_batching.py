from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import END, VOCABULARY, finished, last_hidden, plain, tiny_gpt2, tiny_llama
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from heedful.functional.fast import kernels
from heedful.model import Engine, Generation, Sampling, generate
from heedful.model.dropout import set_residual_dropout
from heedful.model.engine import runner
from heedful.model.engine.paged_runner import PagedRunner
from heedful.model.engine.slots import Slots, groups_of
from heedful.model.fast.gpt2_forward import gpt2_forward
from heedful.model.fast.packed_linear import PackedLinear, product_rows


def bfloat16(model: PreTrainedModel) -> PreTrainedModel:
    return model.to(torch.bfloat16)  # pyright: ignore[reportArgumentType]


# Two heads of 16: torch multiplies still smaller matrices in fp32 with a kernel that depends on the cache's length.
MODELS: dict[str, PreTrainedModel] = {
    "fp32": tiny_gpt2(1, heads=2),
    "bf16": bfloat16(tiny_gpt2(1, heads=2)),
    "no written-out forward": tiny_llama(1),
}


def requests_of(seed: int, count: int) -> list[tuple[list[int], Sampling, int]]:
    """Requests with all kinds of sampling; every third repeats a prompt."""
    rng = random.Random(seed)
    requests: list[tuple[list[int], Sampling, int]] = []
    for i in range(count):
        prompt = [rng.randrange(1, VOCABULARY) for _ in range(rng.choice([1, 2, 5, 17, 31, 32, 33, 60]))]
        if i % 3 == 2:
            prompt = requests[-1][0]
        sampling = Sampling(
            max_tokens=rng.choice([1, 2, 7, 20]),
            temperature=rng.choice([0.0, 0.8, 1.0, 1.0, 1.0]),
            top_p=rng.choice([1.0, 1.0, 0.8]),
            top_k=rng.choice([None, None, 9]),
            logit_bias=rng.choice([{}, {}, {5: 2.0}]),
            stop_tokens=rng.choice([(), (END,), (END, 7)]),
        )
        requests.append((prompt, sampling, rng.randrange(2**62)))
    return requests


def run(
    model: PreTrainedModel, requests: Sequence[tuple[list[int], Sampling, int]], *, slots: int, joins: Sequence[int] = ()
) -> list[Generation]:
    """Each request submitted by itself, at the step in ``joins`` (or at once)."""
    server = Engine(model, slots=slots)
    place: dict[int, int] = {}
    results: dict[int, Generation] = {}
    waiting = sorted(range(len(requests)), key=lambda i: joins[i] if joins else 0)
    step = 0
    while waiting or server.num_unfinished:
        while waiting and (not joins or joins[waiting[0]] <= step):
            i = waiting.pop(0)
            prompt, sampling, seed = requests[i]
            place[server.submit(prompt, sampling, [seed])[0]] = i
        results.update({place[number]: generation for number, generation in finished(server).items()})
        step += 1
        assert step < 2_000
    return [results[i] for i in range(len(requests))]


@pytest.mark.parametrize("loops", ["compiled loops", "torch"])
@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=5, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_requests_text_does_not_depend_on_company_order_time_or_slots(name: str, loops: str, data: st.DataObject) -> None:
    """Known traps: results that change with batch size; a random stream shared by a batch. GPT-2 written out: to the bit."""
    with pytest.MonkeyPatch.context() as patch:
        if loops == "torch":
            patch.setattr(kernels, "usable", lambda _: False)
        check_company(name, data)


def check_company(name: str, data: st.DataObject) -> None:
    model = MODELS[name]
    requests = requests_of(data.draw(st.integers(0, 10**6)), data.draw(st.integers(2, 24)))
    count = len(requests)
    together = run(model, requests, slots=64)
    order = data.draw(st.permutations(range(count)))
    shuffled = run(model, [requests[i] for i in order], slots=data.draw(st.integers(1, 9)))
    late = run(model, requests, slots=data.draw(st.integers(2, 30)), joins=[data.draw(st.integers(0, 30)) for _ in requests])
    some = data.draw(st.integers(0, count - 1))
    for other in (
        [shuffled[order.index(i)] for i in range(count)],
        late,
        [run(model, [requests[some]], slots=4)[0] if i == some else together[i] for i in range(count)],
    ):
        if name == "no written-out forward":
            assert [(g.tokens, g.finished) for g in other] == [(g.tokens, g.finished) for g in together]
            for left, right in zip(other, together, strict=True):
                np.testing.assert_allclose(left.logprobs, right.logprobs, rtol=0, atol=1e-5)
        else:
            assert other == together


def recorded_prompts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    computed: list[tuple[int, ...]] = []
    pack = runner.pack

    def recording(prompts: Sequence[tuple[int, ...]], responses: Sequence[Sequence[int]], **more: Any):
        computed.extend(prompts)
        return pack(prompts, responses, **more)

    compute = PagedRunner._compute

    def recording_pages(
        self: PagedRunner, prompts: Sequence[tuple[int, ...]], pages: list[list[int]], done: list[int], **more: Any
    ) -> torch.Tensor:
        computed.extend(prompt[first:] for prompt, first in zip(prompts, done, strict=True))
        return compute(self, prompts, pages, done, **more)

    monkeypatch.setattr(runner, "pack", recording)
    monkeypatch.setattr(PagedRunner, "_compute", recording_pages)
    return computed


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_a_prompt_is_computed_once_for_all_its_samples(
    make: Callable[[], PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sampling = make(), Sampling(max_tokens=9, stop_tokens=(END,))
    prompts = [[3, 4, 5], [9] * 40, [3, 4], [8]]
    asked = [prompts[i] for i in (0, 1, 0, 2, 1, 0, 3, 0)]
    alone = [generate(model, [prompt], sampling, [i])[0] for i, prompt in enumerate(asked)]
    computed = recorded_prompts(monkeypatch)
    shared = generate(model, asked, sampling, list(range(8)))
    assert sorted(computed) == sorted(tuple(prompt) for prompt in prompts)
    assert [g.tokens for g in shared] == [g.tokens for g in alone]
    assert len({tuple(shared[i].tokens) for i in (0, 2, 5, 7)}) == 4
    for left, right in zip(shared, alone, strict=True):
        np.testing.assert_allclose(left.logprobs, right.logprobs, rtol=0, atol=1e-5)
    computed.clear()
    generate(model, asked, sampling, list(range(8)), batch_size=4)  # samples of a prompt are not torn apart
    assert len(computed) == 4
    computed.clear()
    generate(model, [[6]] * 7, sampling, list(range(7)), batch_size=3)  # unless they are more than there are slots
    assert computed == [(6,)] * 3


def test_requests_join_while_others_are_decoded_and_leave_when_cancelled() -> None:
    model, sampling = tiny_gpt2(2, heads=2), Sampling(max_tokens=30)
    server = Engine(model, slots=8)
    first = server.submit([1, 2, 3], sampling, [1, 2, 3])
    for _ in range(4):
        assert finished(server) == {}
    second = server.submit([4], sampling, [4])
    results = finished(server)
    server.cancel(first[1])
    server.cancel(10**6)
    waiting = [server.submit([5, i], sampling, [9])[0] for i in range(9)]
    server.cancel(waiting[3])
    assert server.num_unfinished == 3 + 8
    while server.num_unfinished:
        results |= finished(server)
    assert set(results) == {first[0], first[2], *second, *waiting} - {waiting[3]}
    assert results[first[2]] == generate(model, [[1, 2, 3]], sampling, [3])[0]
    assert results[second[0]] == generate(model, [[4]], sampling, [4])[0]
    assert results[waiting[8]] == generate(model, [[5, 8]], sampling, [9])[0]
    assert server.step() == []


@pytest.mark.parametrize("admit_at", [0.0, 0.25])
def test_a_step_gives_each_requests_next_token(admit_at: float) -> None:
    """Streaming: what the steps gave, one after the other, is the generation, and nothing comes after it."""
    server, requests = Engine(MODELS["fp32"], slots=5, admit_at=admit_at), requests_of(7, 30)
    numbers = [server.submit(prompt, sampling, [seed])[0] for prompt, sampling, seed in requests]
    streamed: dict[int, list[tuple[int, float]]] = {number: [] for number in numbers}
    results: dict[int, Generation] = {}
    while server.num_unfinished:
        steps = server.step()
        assert len({step.number for step in steps}) == len(steps)
        for step in steps:
            assert step.number not in results
            streamed[step.number].append((step.token, step.logprob))
            if step.generation is not None:
                results[step.number] = step.generation
    assert [results[n] for n in numbers] == run(MODELS["fp32"], requests, slots=64)
    assert {n: list(zip(g.tokens, g.logprobs, strict=True)) for n, g in results.items()} == streamed


def test_a_full_engine_admits_at_a_quarter_of_its_slots_or_at_once() -> None:
    """Eight requests that end one after the other, and two that wait: first tokens come in the step that frees the slots."""
    first_tokens: dict[float, list[int]] = {}
    for admit_at in (0.25, 0.0):
        server = Engine(MODELS["fp32"], slots=8, admit_at=admit_at)
        for i in range(8):
            server.submit([1, 2 + i], Sampling(max_tokens=i + 2), [i])
        waiting = [server.submit([3, i], Sampling(max_tokens=9), [i])[0] for i in (1, 2)]
        seen: dict[int, int] = {}
        for count in range(1, 8):
            for step in server.step():
                seen.setdefault(step.number, count)
        first_tokens[admit_at] = [seen[number] for number in waiting]
    # One slot is free after step 2, two (a quarter) after step 3.
    assert first_tokens == {0.25: [3, 3], 0.0: [2, 3]}


def test_cancelled_before_or_after_its_first_token_a_request_frees_its_slot_and_changes_no_other() -> None:
    model, sampling = MODELS["fp32"], Sampling(max_tokens=12)
    others = [[1, 2, 3], [4] * 20, [5, 6]]
    want = [generate(model, [prompt], sampling, [i])[0] for i, prompt in enumerate(others)]
    for steps_before in range(4):
        server = Engine(model, slots=4, admit_at=0.0)
        numbers = [server.submit(prompt, sampling, [i])[0] for i, prompt in enumerate(others[:2])]
        doomed = server.submit([7, 8, 9], sampling, [99, 98])
        numbers += server.submit(others[2], sampling, [2])
        results: dict[int, Generation] = {}
        for _ in range(steps_before):
            results |= finished(server)
        assert server.num_unfinished == 5
        for number in doomed:
            server.cancel(number)
        assert server.num_unfinished == 3
        assert {step.number for step in server.step()} == set(numbers)  # the last one has a slot now
        late = server.submit([9, 9], sampling, [7])[0]
        while server.num_unfinished:
            results |= finished(server)
        assert [results[number] for number in numbers] == want
        assert set(results) == {*numbers, late}
        assert results[late] == generate(model, [[9, 9]], sampling, [7])[0]
    only = Engine(model)
    only.cancel(only.submit([1], sampling, [0])[0])
    assert (only.num_unfinished, only.step()) == (0, [])


def test_never_more_requests_than_slots_are_decoded() -> None:
    server = Engine(tiny_gpt2(), slots=5)
    for prompt, sampling, seed in requests_of(5, 40):
        server.submit(prompt, sampling, [seed])
    most = 0
    while server.num_unfinished:
        server.step()
        most = max(most, server._runner.num_requests)
    assert 4 <= most <= 5


@pytest.mark.parametrize("group_bytes", [0, 10**12])
def test_groups_of_similar_length_change_no_bit(group_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, requests = MODELS["bf16"], requests_of(11, 40)
    expected = run(model, requests, slots=64)
    monkeypatch.setattr("heedful.model.engine.slots._GROUP_BYTES", group_bytes)
    counts: list[int] = []
    merge = runner.Runner._merge

    def watching(self: runner.Runner) -> None:
        merge(self)
        counts.append(len(self._groups))

    monkeypatch.setattr(runner.Runner, "_merge", watching)
    assert run(model, requests, slots=64, joins=[i // 4 for i in range(40)]) == expected
    assert max(counts) == 1 if group_bytes else max(counts) > 1


def test_prompts_are_grouped_where_a_common_length_would_read_more_than_a_group_costs() -> None:
    """By hand, 1 MiB a group and 1 KiB a token: a row of 31 tokens, 32 places, wastes 128 KiB beside one of 159, 160 places."""
    assert groups_of([31, 159, 31], 1024) == [[1, 0, 2]]
    assert groups_of([31] * 4 + [159] * 4, 1024) == [[4, 5, 6, 7, 0, 1, 2, 3]]
    many = groups_of([31] * 120 + [159], 1024)
    assert [len(group) for group in many] == [9, 112]  # 8 * 128 KiB is 1 MiB: the ninth short row begins a group


def test_a_freed_slot_is_filled_with_the_last_one() -> None:
    slots = Slots([3, 4, 5, 6, 7])
    key = torch.arange(5.0)[:, None, None].expand(5, 2, 4)
    slots.write_prompts(0, torch.arange(5), torch.full((5,), 2), key, -key)
    assert slots.remove({1, 4}) == [0, 3, 2]
    assert slots.lengths == [3, 6, 5]
    assert slots._cache[0][0, :3, 1, 2, 3].tolist() == [0, 3, 2]
    assert slots._cache[0][1, :3, 0, 2, 1].tolist() == [0, -3, -2]


@torch.no_grad()
def test_an_engine_in_bf16_says_the_logprobs_of_a_full_bf16_forward() -> None:
    model = MODELS["bf16"]
    twin = plain(model)
    weight = twin.get_output_embeddings().weight  # pyright: ignore[reportOptionalMemberAccess]
    for prompt, sampling, seed in requests_of(3, 12):
        generation = generate(model, [prompt], sampling, [seed])[0]
        logits = (last_hidden(twin, [*prompt, *generation.tokens])[len(prompt) - 1 : -1] @ weight.T).float()
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(generation.tokens)[:, None])[:, 0]
        # A logit has 8 significant bits: rounding of a few of its last places (hidden states too are rounded).
        tolerance = 4 * float(logits.abs().max()) * 2.0**-8
        np.testing.assert_allclose(generation.logprobs, expected, rtol=0, atol=tolerance)


# ---------------------------------------------------------------- the written-out forward


@pytest.mark.usefixtures("with_and_without_loops")
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_product_is_the_modules(activation: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module, rows = torch.nn.Linear(48, 96), torch.randn(13, 48)
    weight, bias, rows = module.weight.to(dtype), module.bias.to(dtype), rows.to(dtype)
    packed = PackedLinear(weight, bias, activation)
    expected = ACT2FN[activation](torch.nn.functional.linear(rows.float(), weight.float(), bias.float()))
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(packed(rows).float(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_gpt2_written_out_generates_what_its_class_does(activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_gpt2(4)
    model.config.activation_function = activation
    model = type(model)(model.config).eval()
    model.load_state_dict(tiny_gpt2(4).state_dict())
    model.set_attn_implementation("heedful")
    prompts, sampling = [prompt for prompt, _, _ in requests_of(8, 12)], Sampling(max_tokens=8)
    assert gpt2_forward(model) is not None
    fast = generate(model, prompts, sampling, list(range(12)))
    monkeypatch.setattr(runner, "gpt2_forward", lambda model: None)
    slow = generate(model, prompts, sampling, list(range(12)))
    assert [g.tokens for g in fast] == [g.tokens for g in slow]
    for left, right in zip(fast, slow, strict=True):
        np.testing.assert_allclose(left.logprobs, right.logprobs, rtol=0, atol=1e-5)


def test_an_altered_gpt2_runs_through_its_class() -> None:
    """An adapter, a hook or a replaced forward computes something else than the weights tell."""
    hooked = copy.deepcopy(MODELS["fp32"])
    hooked.base_model.get_submodule("h.0.mlp").register_forward_hook(lambda module, inputs, output: torch.zeros_like(inputs[0]))
    other_class = copy.deepcopy(MODELS["fp32"])
    attention = other_class.base_model.get_submodule("h.1.attn")
    attention.c_proj = torch.nn.Linear(32, 32)
    replaced = copy.deepcopy(MODELS["fp32"])
    replaced.base_model.get_submodule("h.0.mlp").forward = lambda hidden: hidden
    before = copy.deepcopy(MODELS["fp32"])
    before.base_model.get_submodule("ln_f").register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    for model in (hooked, other_class, replaced, before, tiny_llama()):
        assert gpt2_forward(model) is None
    for setting in ("add_cross_attention", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"):
        unusual = copy.deepcopy(MODELS["fp32"])
        setattr(unusual.config, setting, True)
        assert gpt2_forward(unusual) is None
    prompts, sampling = [[1, 2, 3]], Sampling(max_tokens=6, temperature=0.0)
    assert generate(hooked, prompts, sampling, [0]) != generate(MODELS["fp32"], prompts, sampling, [0])


class RootMeanSquareNorm(torch.nn.LayerNorm):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input * input.square().mean(-1, keepdim=True).rsqrt() * self.weight


class ScaledEmbedding(torch.nn.Embedding):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 3 * super().forward(input)


@pytest.mark.parametrize(
    ("name", "replacement"),
    [
        ("h.0.ln_1", RootMeanSquareNorm(32)),
        ("ln_f", RootMeanSquareNorm(32)),
        ("wte", ScaledEmbedding(VOCABULARY, 32)),
        ("h.1.mlp.act", torch.nn.Sigmoid()),
        ("h.1.mlp", torch.nn.Sequential(torch.nn.LayerNorm(32))),
    ],
)
def test_a_module_of_another_class_is_heeded_wherever_it_is(name: str, replacement: torch.nn.Module) -> None:
    """It may have a weight of the right shape (as PEFT's embeddings have) and compute something else with it."""
    model = copy.deepcopy(MODELS["fp32"])
    model.base_model.set_submodule(name, replacement)
    assert gpt2_forward(model) is None
    prompt, sampling = [1, 2, 3], Sampling(max_tokens=6)
    generation = generate(model, [prompt], sampling, [0])[0]
    weight = model.get_output_embeddings().weight  # pyright: ignore[reportOptionalMemberAccess]
    logits = last_hidden(plain(model), [*prompt, *generation.tokens])[len(prompt) - 1 : -1] @ weight.T
    expected = logits.log_softmax(-1).gather(-1, torch.tensor(generation.tokens)[:, None])[:, 0]
    np.testing.assert_allclose(generation.logprobs, expected.detach(), rtol=0, atol=1e-5)


def test_policies_in_training_run_through_the_written_out_forward() -> None:
    """Dropout of 0, as PPO has it, leaves no hook."""
    model = copy.deepcopy(MODELS["fp32"])
    set_residual_dropout(model, 0.2)
    assert gpt2_forward(model) is None
    set_residual_dropout(model, 0.0)
    assert gpt2_forward(model) is not None


def test_a_new_call_sees_changed_weights() -> None:
    model, prompts, sampling = tiny_gpt2(), [[1, 2, 3]], Sampling(max_tokens=6, temperature=0.0)
    before = generate(model, prompts, sampling, [0])
    model.load_state_dict(tiny_gpt2(9).state_dict())
    assert generate(model, prompts, sampling, [0]) == generate(tiny_gpt2(9), prompts, sampling, [0]) != before


def test_products_are_made_of_few_numbers_of_rows() -> None:
    decoded = {product_rows(count) for count in range(1, 1_000)}
    prompts = {product_rows(count, step=32) for count in range(1, 513)}
    assert all(count <= product_rows(count) <= 1.125 * count for count in range(1, 1_000))
    assert len(decoded) < 100
    assert len(prompts) == 16


def test_other_architectures_are_given_few_numbers_of_rows_whatever_multiplies_the_unembedding() -> None:
    """Their products are torch's, which keeps memory for each number of rows."""
    model, seen = tiny_llama(), set[int]()

    def note(module: object, arguments: object, keywords: dict[str, torch.Tensor]) -> None:
        seen.add(keywords["input_ids"].shape[1])

    model.base_model.register_forward_pre_hook(note, with_kwargs=True)
    prompts = [[1 + i % 7] * (2 + i) for i in range(37)]
    generate(model, prompts, Sampling(max_tokens=4), list(range(37)), batch_size=37)
    assert len(seen) > 1
    assert all(product_rows(count) == count for count in seen)
