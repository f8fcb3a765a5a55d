"""Adapters: the same numbers adapted, merged, in plain transformers and in PEFT; one base under four models; training."""

from __future__ import annotations

import copy
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tests.tiny import (
    END,
    largest_difference,
    parameter_gradients,
    plain,
    snapshot,
    tiny_gemma3,
    tiny_gpt2,
    tiny_llama,
    tiny_neox,
    tiny_opt_projected,
    tiny_tokenizer,
)
from tests.training.interrupting import interrupted_at, quiet
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from heedful.errors import ConfigError, ModelError
from heedful.model import (
    Sampling,
    add_adapter,
    generate,
    load_causal_model,
    load_scalar_model,
    lora,
    merged,
    pack,
    packed_hidden,
    save_model,
    scalar_model_from_causal,
)
from heedful.model.doctor import quick_check
from heedful.model.encoding import Example, RankedPrompt
from heedful.model.loading import unembedding
from heedful.model.lora import copy_sharing_base, is_adapted, share_equal_tensors
from heedful.model.precision import MasterWeights, frozen, rounded_copy, update_average
from heedful.model.readout import score
from heedful.model.scalar_models import scalar_head, scalar_offset
from heedful.training import ppo, sft
from heedful.training.checkpoint import load_checkpoint
from heedful.training.config import PPOConfig, RewardConfig, SFTConfig
from heedful.training.ppo import PPOData, train_ppo
from heedful.training.pretraining_text import PretrainingText
from heedful.training.reward import train_reward
from heedful.training.sft import SFTData, demonstration_loss, train_sft

# Kinds of layers and names: Conv1D, fused queries, keys and values, separate ones, another decoder's names, post-norms.
KINDS = [tiny_gpt2, tiny_neox, tiny_llama, tiny_opt_projected, tiny_gemma3]
each_kind = pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
PROMPTS, RESPONSES = [[1, 2, 3], [4]], [[5, 6, 7, 8, END], [9, 10]]
BATCH = pack(PROMPTS, RESPONSES)
RANK = 3


def logits(model: PreTrainedModel) -> Tensor:
    return packed_hidden(model, BATCH).index_select(0, BATCH.predict_from).float() @ unembedding(model).float().T


def plain_logits(model: Any) -> Tensor:
    rows = [(p, model(input_ids=torch.tensor([p + r])).logits[0]) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    return torch.cat([row[len(p) - 1 : -1] for p, row in rows])


def assert_near(got: Tensor, want: Tensor, tolerance: float = 1e-5) -> None:
    scale = max(1.0, float(want.detach().abs().max()))
    assert float((got - want).detach().abs().max()) <= tolerance * scale


def shaken(model: PreTrainedModel, precision: Any = "float32") -> PreTrainedModel:
    """With an adapter that has been trained: B is not zero, and its effect is large."""
    add_adapter(model, RANK, precision)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def adapter(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if ".lora_" in name}


def base(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}


# ---------------------------------------------------------------- what an adapted model computes


@each_kind
def test_a_new_adapter_changes_nothing_and_is_all_that_is_trained(make: Callable[[], PreTrainedModel]) -> None:
    model = make()
    before = logits(model)
    assert not is_adapted(model)
    assert add_adapter(model, RANK, "float32") is model
    assert is_adapted(model)
    assert_near(logits(model), before)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all(".lora_" in name for name in trained)
    layers = [name for name, _ in model.named_modules() if name.endswith(".lora_A")]
    assert len(layers) >= 8  # at least four linear layers in each of two decoder layers
    assert not any("lm_head" in name or "embed" in name or "wte" in name for name in layers)


@each_kind
def test_packed_rows_and_gradients_are_those_of_the_plain_adapted_model(make: Callable[[], PreTrainedModel]) -> None:
    model = shaken(make())
    twin = plain(model)
    ours, theirs = logits(model), plain_logits(twin)
    assert_near(ours, theirs)
    assert float((ours - logits(make())).detach().abs().max()) > 0.1
    directions = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    (ours * directions).sum().backward()
    (theirs * directions).sum().backward()
    got, want = parameter_gradients(model), parameter_gradients(twin)
    assert got.keys() == want.keys() == adapter(model).keys()
    largest = max(float(g.abs().max()) for g in want.values())
    for name in want:
        assert float((got[name] - want[name]).abs().max()) <= 1e-5 * max(1.0, largest), name
    quick_check(model.eval())  # cached decoding too


@each_kind
def test_merged_is_adapted_in_every_form(make: Callable[[], PreTrainedModel], tmp_path: Path) -> None:
    """In memory, in the saved folder in plain transformers, and as PEFT reads the adapter by itself."""
    save_model(make(), tiny_tokenizer(), tmp_path / "base")
    model = shaken(load_causal_model(tmp_path / "base"))
    want = logits(model)
    before = snapshot(model)
    assert_near(logits(merged(model)), want)
    assert not is_adapted(merged(model))
    save_model(model, tiny_tokenizer(), tmp_path / "model")
    assert largest_difference(snapshot(model), before) == 0.0
    assert_near(plain_logits(AutoModelForCausalLM.from_pretrained(tmp_path / "model")), want)
    by_peft = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), str(tmp_path / "model" / "adapter")
    )
    assert_near(plain_logits(by_peft.eval()), want)
    assert str(tmp_path / "base") in (tmp_path / "model" / "adapter" / "adapter_config.json").read_text()


def test_generation_with_an_adapter_is_generation_of_the_merged_model() -> None:
    model = shaken(tiny_llama())
    sampling = Sampling(max_tokens=12)
    adapted, plainly = (generate(m, PROMPTS, sampling, [1, 2]) for m in (model, merged(model)))
    assert [g.tokens for g in adapted] == [g.tokens for g in plainly]


def test_the_seed_decides_how_an_adapter_starts_and_the_global_stream_is_left_alone() -> None:
    models = [tiny_gpt2() for _ in range(3)]
    state = torch.get_rng_state()
    one, same, other = (add_adapter(model, RANK, "float32", seed=seed) for model, seed in zip(models, (1, 1, 2), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert largest_difference(adapter(one), adapter(same)) == 0.0
    assert largest_difference(adapter(one), adapter(other)) > 0.01


def test_in_bfloat16_the_base_is_bfloat16_and_what_is_trained_is_float32() -> None:
    model = scalar_model_from_causal(tiny_gpt2(), pad_token_id=None, eos_token_id=END)
    add_adapter(model, RANK, "bfloat16")
    for name, parameter in model.named_parameters():
        trained = ".lora_" in name or name == "score.weight"
        assert parameter.requires_grad is trained
        assert parameter.dtype == (torch.float32 if trained else torch.bfloat16)
    weights = MasterWeights(model, "bfloat16")
    assert weights.compute is weights.master  # no second copy of the base
    packed_hidden(model, BATCH).float().square().sum().backward()
    assert all(g.dtype == torch.float32 for g in parameter_gradients(model).values())


# ---------------------------------------------------------------- one base under several models


def held_bytes(*models: PreTrainedModel) -> int:
    """Of all parameters, each tensor once."""
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for m in models for p in m.parameters()}
    return sum(storages.values())


def test_copies_share_the_base_and_nothing_else() -> None:
    model = shaken(tiny_gpt2(), "bfloat16")
    want = logits(model)
    twin, reference = copy_sharing_base(model), frozen(copy_sharing_base(model), "bfloat16")
    own = sum(p.numel() * 4 for p in adapter(model).values())
    assert held_bytes(model, twin, reference) == held_bytes(model) + own + own // 2
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(2)
    assert torch.equal(logits(twin), want)
    assert not torch.allclose(logits(model), want)
    assert all(p.requires_grad for name, p in model.named_parameters() if ".lora_" in name)
    assert not any(p.requires_grad for p in reference.parameters())


def test_a_copy_of_a_model_without_adapter_shares_nothing() -> None:
    model = tiny_gpt2().requires_grad_(False)
    assert held_bytes(model, copy_sharing_base(model)) == 2 * held_bytes(model)


def reward_model_on(folder: Path, path: Path, precision: Any = "bfloat16") -> PreTrainedModel:
    """A reward model trained as an adapter on the model in a folder, saved and loaded again."""
    torch.manual_seed(0)
    model = scalar_model_from_causal(load_causal_model(folder), pad_token_id=None, eos_token_id=END)
    save_model(shaken(model, precision), tiny_tokenizer(), path)
    return load_scalar_model(path)


@each_kind
def test_policy_and_reward_model_share_one_base(make: Callable[[], PreTrainedModel], tmp_path: Path) -> None:
    """All four models of PPO: one base, and the numbers of each as they were."""
    save_model(make(), tiny_tokenizer(), tmp_path / "base")
    policy = shaken(load_causal_model(tmp_path / "base"), "bfloat16")
    reward_model = add_adapter(reward_model_on(tmp_path / "base", tmp_path / "rm"), RANK, "bfloat16")
    policy_logits, hidden = logits(policy), packed_hidden(reward_model, BATCH)
    apart = held_bytes(policy, reward_model)
    saved = share_equal_tensors(policy, reward_model)
    assert torch.equal(packed_hidden(reward_model, BATCH), hidden)
    assert torch.equal(logits(policy), policy_logits)
    body = sum(p.numel() * 2 for p in policy.base_model.parameters() if not p.requires_grad)
    assert saved == apart - held_bytes(policy, reward_model) == body
    four = [policy, copy_sharing_base(policy), reward_model, copy_sharing_base(reward_model)]
    own = held_bytes(*four) - held_bytes(policy)
    trained = sum(p.numel() * 4 for m in four[1:] for p in m.parameters() if p.requires_grad)
    assert own == trained


def test_models_on_different_bases_share_nothing(tmp_path: Path) -> None:
    save_model(tiny_gpt2(7), tiny_tokenizer(), tmp_path / "other")
    reward_model = add_adapter(reward_model_on(tmp_path / "other", tmp_path / "rm"), RANK, "bfloat16")
    before = snapshot(reward_model)
    share_equal_tensors(add_adapter(tiny_gpt2(), RANK, "bfloat16"), reward_model)
    assert largest_difference(snapshot(reward_model), before) == 0.0


# ---------------------------------------------------------------- loading in the compute type


def assert_same(one: PreTrainedModel, other: PreTrainedModel) -> None:
    assert [(n, p.dtype, p.requires_grad) for n, p in one.named_parameters()] == [
        (n, p.dtype, p.requires_grad) for n, p in other.named_parameters()
    ]
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


@each_kind
def test_loaded_in_bfloat16_it_is_what_it_is_by_way_of_float32(make: Callable[[], PreTrainedModel], tmp_path: Path) -> None:
    """The base bit for bit, under a new adapter and under one that is taken out of the weights; so the head."""
    save_model(make(), tiny_tokenizer(), tmp_path / "base")
    save_model(shaken(make(), "bfloat16"), tiny_tokenizer(), tmp_path / "adapted")
    for folder in (tmp_path / "base", tmp_path / "adapted"):
        direct, around = load_causal_model(folder, "bfloat16"), load_causal_model(folder)
        assert {p.dtype for p in direct.parameters()} == {torch.bfloat16}
        quick_check(direct)
        for model in (direct, around):
            add_adapter(model, RANK, "bfloat16", seed=4)
        assert_same(direct, around)
        assert torch.equal(logits(direct), logits(around))
    reward_model_on(tmp_path / "base", tmp_path / "rm")
    direct, around = load_scalar_model(tmp_path / "rm", "bfloat16"), load_scalar_model(tmp_path / "rm")
    quick_check(direct)
    assert torch.equal(scalar_head(direct).weight, scalar_head(around).weight)
    for model in (direct, around):
        add_adapter(model, RANK, "bfloat16")
    assert_same(direct, around)


@each_kind
def test_a_reward_model_on_a_bfloat16_body_shares_its_tensors(make: Callable[[], PreTrainedModel], tmp_path: Path) -> None:
    save_model(make(), tiny_tokenizer(), tmp_path / "base")
    causal = load_causal_model(tmp_path / "base", "bfloat16")
    model = scalar_model_from_causal(causal, pad_token_id=None, eos_token_id=END)
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    own = held_bytes(causal, model) - held_bytes(causal)
    assert own == scalar_head(model).weight.numel() * 4
    assert scalar_head(model).weight.dtype == torch.float32
    assert torch.equal(packed_hidden(model, BATCH), packed_hidden(causal, BATCH))
    quick_check(model)
    quick_check(add_adapter(model, RANK, "bfloat16"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="measures with a setting of glibc")
@pytest.mark.long
def test_what_loading_takes(tmp_path: Path) -> None:
    """Policy and reward model of 63M weights: two bases in bfloat16 for a moment, one in the end; never one in float32."""

    def measure(what: str) -> dict[str, int]:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "OMP_NUM_THREADS": "1",
            "MALLOC_MMAP_THRESHOLD_": "524288",
        }
        command = [sys.executable, "-m", "tests.model.peak", what, str(tmp_path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=280)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    made = measure("make")
    weights, took, before = made["weights"], measure("once"), measure("twice")
    assert took["shared"] == made["body"] * 2
    assert took["peak"] < weights * 2 * 2 * 1.15
    assert took["held"] < weights * 2 * 1.15
    assert before["peak"] > took["peak"] * 1.4


def test_a_rounded_copy_is_never_whole_in_float32() -> None:
    model = tiny_gpt2()
    copied = rounded_copy(model, torch.bfloat16)
    assert {p.dtype for p in copied.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert held_bytes(model, copied) == held_bytes(model) * 3 // 2  # tied ones stay tied


# ---------------------------------------------------------------- going on with an adapter


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_next_step_goes_on_with_the_adapter_on_the_same_base(precision: Any, tmp_path: Path) -> None:
    model = shaken(tiny_gpt2(), precision)
    save_model(model, tiny_tokenizer(), tmp_path / "model")
    again = add_adapter(load_causal_model(tmp_path / "model"), RANK, precision)
    assert largest_difference(adapter(again), adapter(model)) == 0.0
    assert largest_difference(base(again), base(model)) <= (0.0 if precision == "bfloat16" else 1e-6)
    assert_near(logits(again), logits(model))
    # Through a reward model made from it, as align does.
    scalar = scalar_model_from_causal(load_causal_model(tmp_path / "model"), pad_token_id=None, eos_token_id=END)
    add_adapter(scalar, RANK, precision)
    assert largest_difference(adapter(scalar), adapter(model)) == 0.0
    # Another rank starts anew on the merged model.
    fresh = add_adapter(load_causal_model(tmp_path / "model"), RANK + 1, "float32")
    assert_near(logits(fresh), logits(merged(model)))
    # And without an adapter it is the merged model.
    assert_near(logits(load_causal_model(tmp_path / "model")), logits(merged(model)))


def test_an_adapter_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    save_model(shaken(tiny_gpt2()), tiny_tokenizer(), tmp_path / "model")
    save_model(shaken(tiny_llama()), tiny_tokenizer(), tmp_path / "other")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "model" / "adapter" / name).write_bytes((tmp_path / "other" / "adapter" / name).read_bytes())
    with pytest.raises(ModelError, match="does not fit"):
        add_adapter(load_causal_model(tmp_path / "model"), RANK, "float32")


def test_without_peft_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"heedful\[lora\]"):
        add_adapter(tiny_gpt2(), RANK, "float32")


@pytest.mark.parametrize("config", [SFTConfig, RewardConfig, PPOConfig])
def test_a_rank_below_zero_is_refused(config: Any) -> None:
    with pytest.raises(ConfigError, match="lora_rank"):
        config(lora_rank=-1)


def test_the_moving_average_moves_adapters_only() -> None:
    model = shaken(tiny_gpt2(), "bfloat16")
    average = copy_sharing_base(model)
    before, frozen_before = adapter(average), base(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.add_(1.0)
    update_average(average, model, 0.75)
    for name, parameter in adapter(average).items():
        torch.testing.assert_close(parameter, before[name] + 0.25, rtol=0, atol=1e-6)
    assert largest_difference(base(average), frozen_before) == 0.0


# ---------------------------------------------------------------- training

COMMON: dict[str, Any] = {"lora_rank": RANK, "learning_rate": 1e-2}
EXAMPLES = [Example([40, i, 41], [i, i + 1, END]) for i in range(1, 9)]
RANKINGS = [RankedPrompt("p", ("x", "y"), [3, i], [[7, 7, END], [8, END]], ("a",), ((1, 2),)) for i in range(1, 9)]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_sft_trains_the_adapter_only_and_saves_a_plain_model(precision: Any, tmp_path: Path) -> None:
    model = tiny_gpt2(scale=0.1)
    start = {name: p.to(torch.bfloat16).float() if precision == "bfloat16" else p for name, p in snapshot(model).items()}
    config = SFTConfig(**COMMON, precision=precision, epochs=6, batch_size=4, candidates=2, residual_dropout=0.1)
    before = demonstration_loss(model, EXAMPLES)
    candidates = train_sft(model, tiny_tokenizer(), SFTData(EXAMPLES, EXAMPLES), config, tmp_path, console=quiet())
    assert candidates[-1].validation_loss < candidates[0].validation_loss < before - 0.3
    assert demonstration_loss(load_causal_model(tmp_path / "model"), EXAMPLES) < before - 0.3
    after = {name.replace(".base_layer", ""): tensor.float() for name, tensor in base(model).items()}
    assert after.keys() == start.keys()
    assert largest_difference(after, start) == 0.0
    theirs = plain_logits(AutoModelForCausalLM.from_pretrained(tmp_path / "model"))
    assert_near(theirs, logits(model.eval()), 1e-5 if precision == "float32" else 0.05)


def test_interrupted_sft_with_an_adapter_ends_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SFTConfig(**COMMON, precision="float32", epochs=2, batch_size=4, candidates=1, checkpoint_seconds=1e-9)

    def train(folder: Path) -> dict[str, Tensor]:
        model = tiny_gpt2()
        train_sft(model, tiny_tokenizer(), SFTData(EXAMPLES, EXAMPLES), config, folder, console=quiet())
        return adapter(model)

    whole = train(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(sft, "apply_gradients", interrupted_at(3, sft.apply_gradients))
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "interrupted")
    assert largest_difference(train(tmp_path / "interrupted"), whole) == 0.0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_reward_model_is_trained_as_adapter_and_head(precision: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = scalar_model_from_causal(tiny_gpt2(scale=0.1), pad_token_id=None, eos_token_id=END)
    head = scalar_head(model).weight.detach().clone()
    config = RewardConfig(**COMMON, precision=precision, batch_size=4, epochs=4)
    train_reward(
        model, tiny_tokenizer(), RANKINGS, config, tmp_path, validation=RANKINGS, demonstrations=EXAMPLES, console=quiet()
    )
    assert not torch.equal(scalar_head(model).weight, head)
    prompts, responses = [e.prompt for e in EXAMPLES], [e.response for e in EXAMPLES]
    again = load_scalar_model(tmp_path / "model")
    tolerance = 1e-4 if precision == "float32" else 0.05
    assert abs(float(score(again, prompts, responses).mean())) < tolerance  # the shift is in the folder
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    row = prompts[0] + responses[0]
    with torch.no_grad():
        plain_score = float(theirs(input_ids=torch.tensor([row])).logits[0, 0]) + scalar_offset(again)
    assert plain_score == pytest.approx(float(score(again, prompts[:1], responses[:1])[0]), abs=1e-4)


def run_ppo(folder: Path, precision: Any, tmp_path: Path, **settings: Any) -> tuple[PreTrainedModel, list[dict[str, float]]]:
    config = PPOConfig(
        **COMMON,
        **settings,
        precision=precision,
        value_learning_rate=1e-2,
        episodes=16,
        batch_size=8,
        minibatches=2,
        max_response_tokens=5,
        ptx_examples_per_episode=1,
        ptx_context_length=12,
        warmup_iterations=0,
    )
    text = PretrainingText(np.arange(240, dtype=np.int32) % 60 + 1, np.arange(0, 241, 6))
    policy, reward_model = load_causal_model(tmp_path / "base"), load_scalar_model(tmp_path / "rm")
    data = PPOData([[i, i + 1] for i in range(1, 20)], text, validation=[[3, 4], [5]])
    train_ppo(policy, reward_model, tiny_tokenizer(), data, config, folder, console=quiet())
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return policy, [json.loads(line) for line in lines]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_ppo_on_one_shared_base_is_ppo_on_two_copies_of_it(
    precision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tiny_gpt2(scale=0.1), tiny_tokenizer(), tmp_path / "base")
    reward_model_on(tmp_path / "base", tmp_path / "rm", precision)
    bytes_saved: list[int] = []

    def shared(*models: Any) -> int:
        bytes_saved.append(share_equal_tensors(*models))
        return bytes_saved[-1]

    monkeypatch.setattr(ppo, "share_equal_tensors", shared)
    policy, metrics = run_ppo(tmp_path / "shared", precision, tmp_path)
    monkeypatch.setattr(ppo, "share_equal_tensors", lambda *_: 0)
    monkeypatch.setattr(ppo, "copy_sharing_base", copy.deepcopy)
    apart, expected = run_ppo(tmp_path / "apart", precision, tmp_path)
    assert bytes_saved[0] > 0
    assert metrics == expected
    assert largest_difference(adapter(policy), adapter(apart)) == 0.0
    assert metrics[0]["kl"] == pytest.approx(0.0, abs=1e-5)  # policy and reference start as one
    assert metrics[1]["kl"] != pytest.approx(0.0, abs=1e-5)  # and the reference stays
    original = load_causal_model(tmp_path / "base")
    untouched = {name.replace(".base_layer", ""): tensor.float() for name, tensor in base(policy).items()}
    want = {n: p.to(torch.bfloat16).float() if precision == "bfloat16" else p for n, p in snapshot(original).items()}
    assert largest_difference(untouched, want) == 0.0
    average = AutoModelForCausalLM.from_pretrained(tmp_path / "shared" / "model")
    assert torch.isfinite(plain_logits(average)).all()


CHECKPOINTS: dict[str, Any] = {"checkpoint_seconds": 1e-9, "keep_best": True, "validate_every": 1}


def interrupt_ppo(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stop PPO with adapters in its second iteration; returns the newest checkpoint."""
    save_model(tiny_gpt2(scale=0.1), tiny_tokenizer(), tmp_path / "base")
    reward_model_on(tmp_path / "base", tmp_path / "rm", "float32")
    with monkeypatch.context() as patch:
        patch.setattr(ppo, "apply_gradients", interrupted_at(7, ppo.apply_gradients))
        with pytest.raises(KeyboardInterrupt):
            run_ppo(folder, "float32", tmp_path, **CHECKPOINTS)
    state = load_checkpoint(folder / "checkpoints", say=lambda text: None)
    assert state is not None
    return state


def test_a_checkpoint_holds_adapters_and_not_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = interrupt_ppo(tmp_path / "run", tmp_path, monkeypatch)
    best = state["best"]["weights"]
    for part in (state["policy"], state["average"], best):
        assert part
        assert all(".lora_" in name for name in part)
    assert {name for name in state["value"] if ".lora_" not in name} == {"score.weight"}
    # And it ends with the same bits.
    whole, metrics = run_ppo(tmp_path / "whole", "float32", tmp_path, **CHECKPOINTS)
    again, resumed = run_ppo(tmp_path / "run", "float32", tmp_path, **CHECKPOINTS)
    assert resumed == metrics
    assert largest_difference(snapshot(again), snapshot(whole)) == 0.0
    saved = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "run")]
    assert saved[0] == saved[1]


@pytest.mark.parametrize("other", ["base", "rm"])
def test_a_checkpoint_goes_on_with_its_own_base_only(other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frozen numbers are not in it: with others its adapters would mean something else."""
    interrupt_ppo(tmp_path / "run", tmp_path, monkeypatch)
    file = tmp_path / other / "model.safetensors"
    tensors = load_file(file)
    tensors["transformer.h.1.ln_1.weight"][3] += 1e-6  # never trained, and not an adapter's
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="checkpoints of another run") as caught:
        run_ppo(tmp_path / "run", "float32", tmp_path, **CHECKPOINTS)
    assert {"base": "policy = ", "rm": "reward_model = "}[other] in str(caught.value)


def test_the_figures_of_the_page_are_those_of_a_7b_model() -> None:
    """docs/lora.md, from Llama 2 7B's shape: no weights are made."""
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=32_000, intermediate_size=11_008))
    weights = sum(p.numel() for p in model.parameters())
    trained = 16 * sum(sum(layer.get_parameter("weight").shape) for _, layer in lora.linear_layers(model))
    page = (Path(__file__).resolve().parents[2] / "docs" / "lora.md").read_text(encoding="utf-8")
    assert f"{weights:,} weights" in page
    assert f"{trained:,} trained" in page
    sizes = {
        "policy": (weights * 18, trained * 16),
        "value function": (weights * 18, trained * 16),
        "reference": (weights * 2, trained * 2),
        "reward model": (weights * 2, trained * 2),
        "average of the policy": (weights * 4, trained * 4),
        "shared base": (0, weights * 2),
    }
    sizes["all"] = (sum(full for full, _ in sizes.values()), sum(low for _, low in sizes.values()))
    for name, (full, low) in sizes.items():
        row = re.search(rf"^\| {name} \|.*\| ([\d.]+) \|.*\| ([\d.]+) \|$", page, re.MULTILINE)
        assert row, name
        assert (float(row[1]), float(row[2])) == pytest.approx((full / 1e9, low / 1e9), abs=0.051), name
