"""Every supported family against plain transformers: layouts, gradients, cached decoding, folders, heads, dropout."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from tests.tiny import (
    CONTEXT,
    END,
    FAMILIES,
    VOCABULARY,
    WINDOW,
    finished,
    parameter_gradients,
    plain,
    tiny_gemma2,
    tiny_gemma3,
    tiny_llama,
    tiny_mistral,
    tiny_opt,
    tiny_opt_projected,
    tiny_qwen2,
    tiny_tokenizer,
)
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BloomConfig,
    BloomForCausalLM,
    PreTrainedModel,
)

from heedful.errors import ModelError
from heedful.functional.fast import kernels
from heedful.model import (
    Engine,
    Sampling,
    attention,
    generate,
    load_causal_model,
    load_scalar_model,
    pack,
    pack_documents,
    pack_shared,
    packed_hidden,
    save_model,
    scalar_model_from_causal,
)
from heedful.model.attention import use_heedful_attention
from heedful.model.dropout import decoder_layers, set_residual_dropout
from heedful.model.loading import unembedding
from heedful.model.scalar_models import scalar_head, scalar_offset, shift_scalar_model

Make = Callable[[], PreTrainedModel]
SLIDING: list[Make] = [tiny_mistral, tiny_qwen2, tiny_gemma2, tiny_gemma3]
TOLERANCE = 1e-5

each_family = pytest.mark.parametrize("make", FAMILIES, ids=lambda make: make.__name__)


def random_tokens(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(1, VOCABULARY) for _ in range(length)]


def plain_logits(model: PreTrainedModel, tokens: Sequence[int]) -> Tensor:
    """[tokens, vocabulary] from one forward of one sequence through the whole plain model, its own head included."""
    return cast(Any, model)(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0]


def assert_near(got: Tensor, want: Tensor, scale: float = 1.0) -> None:
    """Within 1e-5 of the largest entry (logits here reach some tens, and sums round in another order)."""
    assert got.shape == want.shape
    scale = max(scale, float(want.detach().abs().max()))
    assert float((got - want).detach().abs().max()) <= TOLERANCE * scale


def assert_same_gradients(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert got
    assert got.keys() == want.keys()
    # A key's bias has no gradient but for rounding: it shifts all of a query's scores alike.
    rounding = 0.01 * max(float(gradient.abs().max()) for gradient in want.values())
    for name in want:
        assert_near(got[name], want[name], max(1.0, rounding) if name.endswith("k_proj.bias") else 1.0)


def response_logits(model: PreTrainedModel, batch: Any) -> Tensor:
    return packed_hidden(model, batch).index_select(0, batch.predict_from) @ unembedding(model).T


# Prompts and responses on both sides of the sliding windows; more than one group, more than one response.
RNG = random.Random(0)
PROMPTS = [random_tokens(RNG, 3), random_tokens(RNG, WINDOW + 5)]
RESPONSES = [[random_tokens(RNG, n) for n in (2, WINDOW + 9, 1)], [random_tokens(RNG, n) for n in (WINDOW, 4)]]
PAIRS = [(p, r) for p, group in zip(PROMPTS, RESPONSES, strict=True) for r in group]


@each_family
@pytest.mark.parametrize("layout", ["packed", "shared prompt", "one by one"])
@pytest.mark.parametrize("largest_explicit_block", [None, 512, 0])
def test_logits_and_gradients_are_those_of_plain_transformers(
    make: Make, layout: str, largest_explicit_block: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All kernels: the compiled loops, two products with a softmax between, and torch's blocked one."""
    if largest_explicit_block is not None:
        monkeypatch.setattr(kernels, "usable", lambda _: False)
        monkeypatch.setattr(attention, "_LARGEST_EXPLICIT_BLOCK", largest_explicit_block)
    elif not kernels.usable(torch.zeros(1)):
        pytest.skip("no C++ compiler on this machine")
    model = make()
    twin = plain(model)
    if layout == "packed":
        ours = response_logits(model, pack([p for p, _ in PAIRS], [r for _, r in PAIRS]))
    elif layout == "shared prompt":
        ours = response_logits(model, pack_shared(PROMPTS, RESPONSES))
    else:
        ours = torch.cat([response_logits(model, pack([p], [r])) for p, r in PAIRS])
    theirs = torch.cat([plain_logits(twin, p + r)[len(p) - 1 : -1] for p, r in PAIRS])
    assert_near(ours, theirs)
    directions = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    (ours * directions).sum().backward()
    (theirs * directions).sum().backward()
    assert_same_gradients(parameter_gradients(model), parameter_gradients(twin))


@each_family
@pytest.mark.parametrize("side", ["left", "right"])
def test_packed_is_plain_transformers_with_padding(make: Make, side: str) -> None:
    sequences = [p + r for p, r in PAIRS]
    longest = max(map(len, sequences))
    padding = [[0] * (longest - len(s)) for s in sequences]
    rows = [s + p if side == "right" else p + s for s, p in zip(sequences, padding, strict=True)]
    ones = [[1] * len(s) for s in sequences]
    mask = torch.tensor([o + p if side == "right" else p + o for o, p in zip(ones, padding, strict=True)])
    model = make()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    padded = cast(Any, plain(model))(
        input_ids=torch.tensor(rows), attention_mask=mask, position_ids=positions, use_cache=False
    ).logits
    batch = pack_documents(sequences)
    packed = packed_hidden(model, batch)[: int(batch.last.max()) + 1] @ unembedding(model).T
    assert_near(packed, padded[mask.bool()])


# ---------------------------------------------------------------- cached decoding


@each_family
def test_cached_decoding_is_the_full_forward(make: Make) -> None:
    """Prompts of all lengths at once, responses of all lengths: some rows are beyond a sliding window, some within it."""
    model = make()
    twin = plain(model)
    rng = random.Random(2)
    prompts = [random_tokens(rng, n) for n in (1, 4, 2, 3, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW + 3)]
    for temperature in (0.0, 1.0):
        sampling = Sampling(max_tokens=2 * WINDOW + 4, temperature=temperature, stop_tokens=(END,))
        generations = generate(model, prompts, sampling, list(range(5, 5 + len(prompts))))
        assert any(len(p) + len(g.tokens) > 2 * WINDOW for p, g in zip(prompts, generations, strict=True))
        for prompt, generation in zip(prompts, generations, strict=True):
            logprobs = plain_logits(twin, prompt + generation.tokens)[len(prompt) - 1 : -1].log_softmax(-1)
            want = logprobs.gather(-1, torch.tensor(generation.tokens)[:, None])[:, 0]
            assert_near(torch.tensor(generation.logprobs), want.detach())
            if temperature == 0:
                assert generation.tokens == logprobs.argmax(-1).tolist()


@pytest.mark.parametrize("make", SLIDING, ids=lambda make: make.__name__)
@pytest.mark.parametrize("group_bytes", [0, 10**12])
def test_generation_goes_beyond_the_window(make: Make, group_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that shows a token more than its window gives wrong text without an error.

    More than the cache's grid of lengths is generated, requests join late and leave early, in one group and in several.
    """
    monkeypatch.setattr("heedful.model.engine.slots._GROUP_BYTES", group_bytes)
    model = make()
    twin = plain(model)
    rng = random.Random(3)
    prompts = [random_tokens(rng, n) for n in (3, WINDOW + 3, 31, 40, WINDOW, 3)]
    server, results = Engine(model, slots=4), {}
    asked: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        numbers = server.submit(prompt, Sampling(max_tokens=50 if i % 2 else 9), [2 * i, 2 * i + 1])
        asked |= dict.fromkeys(numbers, prompt)
        for _ in range(3):
            results |= finished(server)
    while server.num_unfinished:
        results |= finished(server)
    assert sorted(len(g.tokens) for g in results.values()) == [9] * 6 + [50] * 6
    for number, generation in results.items():
        prompt = asked[number]
        logprobs = plain_logits(twin, prompt + generation.tokens)[len(prompt) - 1 : -1].log_softmax(-1)
        want = logprobs.gather(-1, torch.tensor(generation.tokens)[:, None])[:, 0]
        assert_near(torch.tensor(generation.logprobs), want.detach())


# ---------------------------------------------------------------- folders, heads


@each_family
def test_a_saved_model_is_the_same_in_plain_transformers_and_here(make: Make, tmp_path: Path) -> None:
    model = make()
    save_model(model, tiny_tokenizer(), tmp_path / "model")
    rows = [p + r for p, r in PAIRS]
    batch = pack_documents(rows)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ours = response_logits(load_causal_model(tmp_path / "model"), batch)
    torch.testing.assert_close(ours, response_logits(model, batch), rtol=0, atol=0)
    assert_near(ours, torch.cat([plain_logits(theirs, row)[:-1] for row in rows]))


def our_scores(model: PreTrainedModel) -> Tensor:
    batch = pack_shared(PROMPTS, RESPONSES)
    hidden = packed_hidden(model, batch).index_select(0, batch.last)
    return F.linear(hidden, scalar_head(model).weight)[:, 0] + scalar_offset(model)


def our_values(model: PreTrainedModel) -> Tensor:
    batch = pack([p for p, _ in PAIRS], [r for _, r in PAIRS])
    hidden = packed_hidden(model, batch).index_select(0, batch.predict_from)
    return F.linear(hidden, scalar_head(model).weight)[:, 0] + scalar_offset(model)


@each_family
def test_scores_and_values_are_those_of_plain_sequence_classification(make: Make, tmp_path: Path) -> None:
    """A value is what plain transformers says of the sequence cut before the token: one class serves both."""
    model = scalar_model_from_causal(make(), pad_token_id=None, eos_token_id=END)
    save_model(model, tiny_tokenizer(), tmp_path / "rm")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    again = load_scalar_model(tmp_path / "rm")

    def score(row: list[int]) -> Tensor:
        return theirs(input_ids=torch.tensor([row])).logits[0, 0]

    assert_near(our_scores(again), torch.stack([score(p + r) for p, r in PAIRS]))
    assert_near(our_values(again), torch.stack([score(p + r[:n]) for p, r in PAIRS for n in range(len(r))]))


@each_family
def test_a_shift_moves_scores_by_exactly_it(make: Make) -> None:
    model = scalar_model_from_causal(make(), pad_token_id=None, eos_token_id=END)
    before = our_scores(model)
    shift_scalar_model(model, -3.25)
    assert_near(our_scores(model), before - 3.25)


@pytest.mark.parametrize("norm_before", [True, False])
def test_a_projection_behind_the_norm_keeps_the_shift_out_of_it(norm_before: bool) -> None:
    model = scalar_model_from_causal(tiny_opt_projected(norm_before=norm_before), pad_token_id=None, eos_token_id=END)
    shift_scalar_model(model, 1.5)
    assert scalar_offset(model) == 1.5
    folded = scalar_model_from_causal(tiny_opt(), pad_token_id=None, eos_token_id=END)
    shift_scalar_model(folded, 1.5)
    assert scalar_offset(folded) == 0.0


# ---------------------------------------------------------------- dropout


def hidden(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return packed_hidden(model, pack_documents([[1, 2, 3, 4, 5, 6], [7, 8, 9]]))


@each_family
def test_without_dropout_training_mode_changes_nothing(make: Make) -> None:
    """OPT's own dropout is a number, not a module: left on, PPO's first ratio would not be 1."""
    model = make()
    want = hidden(model)
    set_residual_dropout(model, 0.0)
    torch.testing.assert_close(hidden(model.train()), want, rtol=0, atol=0)


@each_family
def test_what_each_branch_adds_is_dropped_at_the_rate_asked_for(make: Make) -> None:
    """Seen from outside: what reaches the residual stream, which is what a layer's outputs and inputs differ by."""
    model = make().train()
    set_residual_dropout(model, 1.0 - 1e-9)  # all of it: every layer then hands on what it was given
    seen: list[tuple[Tensor, Tensor]] = []

    def record(_: Any, inputs: Any, output: Any) -> None:
        seen.append((inputs[0], output if isinstance(output, Tensor) else output[0]))

    for layer in decoder_layers(model):
        layer.register_forward_hook(record)
    hidden(model)
    assert len(seen) == 2
    if make is not tiny_opt_projected:  # there norms stand in the residual stream itself
        for before, after in seen:
            torch.testing.assert_close(after, before, rtol=0, atol=0)
    set_residual_dropout(model, 0.3)
    assert not torch.equal(hidden(model), hidden(model))
    torch.testing.assert_close(hidden(model.eval()), hidden(make()), rtol=0, atol=0)


@pytest.mark.parametrize("make", [tiny_gemma2, tiny_gemma3], ids=lambda make: make.__name__)
def test_dropout_comes_after_the_norm_that_follows_a_branch(make: Make) -> None:
    """Before it, the norm would scale what was kept by what was dropped."""
    seen: list[Tensor] = []
    model = make().train()
    decoder_layers(model)[0].get_submodule("post_attention_layernorm").register_forward_hook(lambda *a: seen.append(a[2]))
    for probability in (0.0, 0.2):
        set_residual_dropout(model, probability)
        # The hook that drops is registered after ours: ours is run first, so it is moved to the end.
        norm = decoder_layers(model)[0].get_submodule("post_attention_layernorm")
        cast(Any, norm._forward_hooks).move_to_end(next(iter(norm._forward_hooks)))
        hidden(model)
    clean, dropped = seen
    kept = dropped != 0
    assert 0.05 < 1 - float(kept.float().mean()) < 0.4
    torch.testing.assert_close(dropped[kept], clean[kept] / 0.8, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- what is refused


def test_capped_scores_are_refused_by_the_attention_too() -> None:
    """A reward model is loaded without the check of the language-model head."""
    with pytest.raises(ModelError, match="softcap"):
        hidden(tiny_gemma2(softcap=5.0))


def test_an_architecture_that_does_not_use_the_attention_interface_is_refused() -> None:
    """transformers only warns, and the model would go on without layouts."""
    model = BloomForCausalLM(BloomConfig(vocab_size=8, hidden_size=8, n_layer=1, n_head=2))
    with pytest.raises(ModelError, match="BloomForCausalLM"):
        use_heedful_attention(model)


def test_bidirectional_attention_is_refused(tmp_path: Path) -> None:
    model = tiny_gemma3()
    model.config.use_bidirectional_attention = True
    save_model(model, tiny_tokenizer(), tmp_path / "model")
    with pytest.raises(ModelError, match="use_bidirectional_attention"):
        load_causal_model(tmp_path / "model")


def test_an_architecture_without_a_classification_class_makes_no_reward_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise ValueError("Unrecognized configuration class")

    monkeypatch.setattr(AutoModelForSequenceClassification, "from_config", unknown)
    with pytest.raises(ModelError, match="no reward model can be made"):
        scalar_model_from_causal(tiny_llama(), pad_token_id=None, eos_token_id=END)


def test_the_window_is_seen_by_these_tests() -> None:
    """Without its window, Mistral's logits are others, so the comparisons above test it."""
    model, wide = tiny_mistral(), tiny_mistral(window=None)
    assert float((hidden(model) - hidden(wide)).abs().max()) < 1e-5  # sequences shorter than the window
    batch = pack_shared(PROMPTS, RESPONSES)
    assert float((packed_hidden(model, batch) - packed_hidden(wide, batch)).detach().abs().max()) > 0.1
    assert len(PROMPTS[1]) + len(RESPONSES[1][0]) < CONTEXT


def test_the_page_of_families_names_them_all() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "families.md").read_text(encoding="utf-8")
    assert {make().config.model_type for make in FAMILIES} == set(re.findall(r"^\| [^|]+ \| `([\w]+)` \|", page, re.MULTILINE))
