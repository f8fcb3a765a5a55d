"""``heedful plan``: parameters, memory and operations by hand, against torch's saved tensors and measured peaks."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.align.small_project import run
from tests.planning import measured
from tests.tiny import END
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PretrainedConfig

from heedful.cli.plan_verb import Plan, plan_of
from heedful.model import add_adapter, pack, packed_hidden, scalar_model_from_causal
from heedful.model.attention import use_heedful_attention
from heedful.model.dropout import set_residual_dropout
from heedful.planning.compute import PETAFLOPS_DAY, Lengths, forward, ppo_work, reward_work, sft_work
from heedful.planning.memory import (
    Attended,
    activation_bytes,
    cache_bytes,
    logits_workspace,
    peak,
    ppo_memory,
    reward_memory,
    sft_memory,
)
from heedful.planning.shapes import Shape, shape_of, shape_of_config
from heedful.training.config import PPOConfig, Precision, RewardConfig, SFTConfig

ROOT = Path(__file__).resolve().parents[2]

SHAPE = Shape(
    name="by hand",
    parameters=1_000,
    block_parameters=300,
    layers=2,
    width=10,
    attention_width=10,
    heads=2,
    key_width=10,
    feed_forward_width=40,
    vocabulary=30,
    context=64,
    tied=True,
)


def llama_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=50,
        max_position_embeddings=256,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=END,
        eos_token_id=END,
        tie_word_embeddings=False,
    )


# ------------------------------------------------------------------------------------------- shapes


def test_parameters_of_gpt3() -> None:
    """A GPT-2 block of width d has 12 d^2 + 13 d parameters: 4 d^2 attention, 8 d^2 feed-forward, biases, two norms."""
    for name, layers, width in (("gpt3-1.3b", 24, 2_048), ("gpt3-6b", 32, 4_096), ("gpt3-175b", 96, 12_288)):
        shape = shape_of(name)
        block = 12 * width**2 + 13 * width
        assert shape.block_parameters == block
        assert shape.parameters == layers * block + (50_257 + 2_048) * width + 2 * width
        assert shape.tied
    assert shape_of("gpt3-175b").parameters / 1e9 == pytest.approx(174.6, abs=0.05)


def test_shape_of_a_folder(tmp_path: Path) -> None:
    llama_config().save_pretrained(tmp_path)
    shape = shape_of(str(tmp_path))
    assert (shape.layers, shape.width, shape.heads, shape.key_width, shape.feed_forward_width) == (3, 64, 4, 32, 96)
    assert (shape.tied, shape.gated, shape.rms_norm) == (False, True, True)
    # Query and output 64 x 64, key and value 64 x 32, three feed-forward matrices, two norms.
    block = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96 + 2 * 64
    assert shape.block_parameters == block
    assert shape.parameters == 3 * block + 2 * 50 * 64 + 64
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("config", [llama_config(), measured.CONFIG], ids=["llama", "gpt2"])
def test_parameters_of_the_reward_model(config: PretrainedConfig) -> None:
    model = LlamaForCausalLM(config) if isinstance(config, LlamaConfig) else GPT2LMHeadModel(config)  # type: ignore[arg-type]
    scalar = scalar_model_from_causal(model, pad_token_id=None, eos_token_id=END)
    assert shape_of_config("x", config).scalar_parameters == sum(p.numel() for p in scalar.parameters())


def test_miniature_is_as_its_weights_are() -> None:
    weights = ROOT / "src" / "heedful" / "miniature" / "weights"
    for size in ("small", "medium"):
        assert replace(shape_of(f"miniature-{size}"), name="") == replace(shape_of(str(weights / size)), name="")


# ------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize(("dropout", "lora_rank"), [(0.0, 0), (0.2, 0), (0.0, 8)])
@pytest.mark.parametrize("family", ["gpt2", "gelu_new", "llama"])
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_activations_are_what_torch_saves(family: str, dropout: float, lora_rank: int, precision: Precision) -> None:
    """Bytes of all tensors that autograd keeps in a forward pass, each storage once, parameters left out."""
    torch.manual_seed(0)
    if family == "llama":
        config: PretrainedConfig = llama_config()
        model = LlamaForCausalLM(config)
    else:
        config = GPT2Config(
            vocab_size=50,
            n_positions=256,
            n_embd=64,
            n_layer=3,
            n_head=4,
            activation_function="gelu" if family == "gpt2" else family,
            bos_token_id=END,
            eos_token_id=END,
        )
        model = GPT2LMHeadModel(config)
    model = use_heedful_attention(model)
    if precision == "bfloat16":
        model = model.bfloat16()
    if lora_rank:
        add_adapter(model, lora_rank, precision)
    set_residual_dropout(model, dropout)
    model.train()
    batch = pack([[1] * 64] * 16, [[2] * 64] * 16)
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage  # held, so that its place is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = packed_hidden(model, batch)
    assert hidden.requires_grad
    attended = [Attended(queries=128, keys=128, count=16)]
    planned = activation_bytes(
        shape_of_config("x", config),
        attended,
        precision,
        dropout=dropout > 0,
        on_cpu=True,
        lora_rank=lora_rank,
    )
    assert planned == pytest.approx(sum(storage.nbytes() for storage in kept.values()), rel=0.08 if lora_rank else 0.05)


def test_activations_by_hand() -> None:
    """Width 10, feed-forward 40, bf16, one sequence of 4 tokens.

    A token and layer: two norms' inputs and outputs 40, query and attention's output 20, activation 80 numbers, two masks 20
    bytes; its key and value 20 numbers; on a GPU SDPA's output 10 numbers, a mask row 4, two fp32 statistics.
    """
    one = [Attended(queries=4, keys=4)]
    norm = 4 * (20 + 10) * 2  # the last norm, and the hidden states that are picked out
    assert activation_bytes(SHAPE, one, "bfloat16", dropout=True) == 2 * 4 * ((40 + 20 + 80 + 20 + 10 + 4) * 2 + 20 + 8) + norm
    # On a CPU: no such output; dropout keeps its noise as numbers.
    cpu = activation_bytes(SHAPE, one, "bfloat16", dropout=True, on_cpu=True)
    assert cpu == 2 * 4 * ((40 + 20 + 80 + 20) * 2 + 40) + norm
    assert activation_bytes(SHAPE, [Attended(queries=4, keys=4, count=3)], "bfloat16") == 3 * activation_bytes(
        SHAPE, one, "bfloat16"
    )


def test_a_ranking_keeps_the_prompts_keys_for_each_response() -> None:
    shared = RewardConfig(max_prompt_tokens=8, max_response_tokens=4, batch_size=1)
    memory = reward_memory(SHAPE, shared, responses=3, gpus=1)["backward pass"]
    attended = [Attended(queries=8, keys=8), Attended(queries=4, keys=12, count=3)]
    assert memory.activations == activation_bytes(SHAPE, attended, "bfloat16")


def test_layers_that_do_not_learn_have_no_gradients_moments_or_activations() -> None:
    """One of two blocks of 400 weights and a head of 10 learn; 1,010 weights are held in fp32 and bf16."""
    config = RewardConfig(max_prompt_tokens=8, max_response_tokens=4, batch_size=1, trained_layers=1)
    memory = reward_memory(SHAPE, config, responses=3, gpus=1)
    step, blocks = memory["optimiser step"], SHAPE.block_parameters
    assert (step.parameters, step.optimiser, step.gradients) == (1_010 * 6, (blocks + 10) * 8, (blocks + 10) * 4)
    attended = [Attended(queries=8, keys=8), Attended(queries=4, keys=12, count=3)]
    both, last = activation_bytes(SHAPE, attended, "bfloat16"), 4 * 5 * (20 + 10) * 2
    assert memory["backward pass"].activations == (both - last) // 2 + last
    alone = reward_memory(SHAPE, replace(config, trained_layers=0, fit_head=True), responses=3, gpus=1)
    assert {one.total for one in alone.values()} == {1_010 * 6}


def test_bytes_of_a_trained_parameter() -> None:
    """bf16: master 4, compute copy 2, moments 8, gradient 4. float32: no copy."""
    config = SFTConfig(max_prompt_tokens=8, max_response_tokens=8, batch_size=4, tokens_per_microbatch=32)
    step = sft_memory(SHAPE, config, gpus=1)["optimiser step"]
    assert (step.parameters, step.optimiser, step.gradients, step.total) == (6_000, 8_000, 4_000, 18_000)
    exact = sft_memory(SHAPE, replace(config, precision="float32"), gpus=1)["optimiser step"]
    assert (exact.parameters, exact.total) == (4_000, 16_000)
    # Two microbatches: when the second's backward pass begins, the first's gradients are there.
    assert sft_memory(SHAPE, config, gpus=1)["backward pass"].gradients == 4_000
    assert sft_memory(SHAPE, replace(config, batch_size=2), gpus=1)["backward pass"].gradients == 0


def test_four_models_of_ppo() -> None:
    """Policy and value function 6 each, reference and reward model 2 each, average 4."""
    scalar = 1_000 + 10
    moments = ppo_memory(SHAPE, SHAPE, PPOConfig(max_prompt_tokens=8, max_response_tokens=8), gpus=1)
    assert {m.parameters for m in moments.values()} == {1_000 * (6 + 2 + 4) + scalar * (6 + 2)}
    assert {m.optimiser for m in moments.values()} == {8 * (1_000 + scalar)}
    assert moments["optimiser step"].gradients == 4 * (1_000 + scalar)
    assert moments["rollouts"].gradients == 0
    # 512 rows of 16 tokens, on the grid of 32; keys and values of width 10 in 2 layers, bf16.
    assert moments["rollouts"].cache == 512 * 32 * 2 * 10 * 2 * 2


def test_cache_of_gpt3_6b() -> None:
    """Half a MiB a token: 32 layers, keys and values, 4,096 wide, 2 bytes."""
    assert cache_bytes(shape_of("gpt3-6b"), 1, 2_048, "bfloat16") == 2_048 * 32 * 2 * 4_096 * 2
    grouped = replace(SHAPE, key_width=5)
    assert cache_bytes(grouped, 1, 32, "float32") == 32 * 2 * 2 * 5 * 4


def test_workspace_of_the_loss() -> None:
    """A chunk of logits in bf16 and fp32; the unembedding's gradient in fp32, one chunk's in bf16, and the bf16 result."""
    assert logits_workspace(SHAPE, 4_000, "bfloat16") == 512 * 30 * 6 + 300 * 8
    assert logits_workspace(SHAPE, 7, "float32") == 7 * 30 * 4 + 300 * 4


def test_gpus_share_states_but_not_activations() -> None:
    config = SFTConfig(max_prompt_tokens=8, max_response_tokens=8, batch_size=64, tokens_per_microbatch=16)
    one, ten = (sft_memory(SHAPE, config, gpus=gpus)["backward pass"] for gpus in (1, 10))
    assert ten.activations == one.activations
    assert ten.optimiser * 10 == one.optimiser
    assert ten.gradients * 10 == one.gradients
    assert ten.parameters == one.parameters // 10 + (3 * 300 + 30 * 10) * 2  # and the gathered blocks and embedding


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="measures with a setting of glibc")
@pytest.mark.parametrize("step", ["sft", "ppo", "sft-checkpointing"])
def test_measured_peak(step: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.planning.measured", step],
        cwd=ROOT,
        env=os.environ
        | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "524288"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    took = json.loads(done.stdout)["peak_bytes"]
    shape = shape_of_config("measured", measured.CONFIG)
    config = measured.STEPS[step][1]
    moments = sft_memory(shape, config, gpus=0) if "sft" in step else ppo_memory(shape, shape, config, gpus=0)
    assert peak(moments) == pytest.approx(took, rel=0.15)


# ------------------------------------------------------------------------------------------- compute


def test_operations_by_hand() -> None:
    """Three tokens, two of them predicted: 2 operations a parameter and token, and 4 x width for each pair of tokens."""
    work = forward(SHAPE, 3, predicted=2)
    assert work.flops == 2 * 3 * 2 * 300 + 2 * 2 * 300 + 4 * 2 * 10 * (3 * 3 / 2)
    assert work.tokens == 3
    assert forward(SHAPE, 3, before=5).flops - forward(SHAPE, 3).flops == 4 * 2 * 10 * 3 * 5


def test_operations_of_each_step() -> None:
    lengths = Lengths(prompt=3, response=2)
    policy, scalar = forward(SHAPE, 5, predicted=2).flops, forward(SHAPE, 5).flops
    sft = sft_work(SHAPE, SFTConfig(epochs=4), lengths, demonstrations=7)
    assert sft.flops == pytest.approx(3 * policy * 4 * 7)
    assert sft.tokens == 5 * 4 * 7
    ranked = reward_work(SHAPE, RewardConfig(), lengths, rankings=7, responses=4)
    assert ranked.tokens == (3 + 4 * 2) * 7  # the prompt once
    assert ranked.flops == pytest.approx(3 * 7 * (forward(SHAPE, 3).flops + 4 * forward(SHAPE, 2, before=3).flops))
    last = reward_work(SHAPE, RewardConfig(fit_head=True, trained_layers=1), lengths, rankings=7, responses=4)
    # Two forward passes, and a backward pass through one of two layers.
    assert last.flops == pytest.approx(ranked.flops * (1 + 1 + 2 / 2) / 3)
    alone = reward_work(SHAPE, RewardConfig(fit_head=True, trained_layers=0), lengths, rankings=7, responses=4)
    assert alone.flops == pytest.approx(ranked.flops / 3)
    config = PPOConfig(episodes=1_024, ptx_examples_per_episode=3)
    ppo = ppo_work(SHAPE, SHAPE, config, lengths, pretraining_length=6)
    assert ppo.rollouts.flops == pytest.approx(1_024 * policy)
    assert ppo.judging.flops == pytest.approx(1_024 * (2 * policy + 2 * scalar))
    assert ppo.updates.flops == pytest.approx(1_024 * 3 * (policy + scalar))
    assert ppo.pretraining.flops == pytest.approx(1_024 * 3 * 3 * forward(SHAPE, 6, predicted=6).flops)
    two_passes = ppo_work(SHAPE, SHAPE, replace(config, inner_epochs=2), lengths, pretraining_length=6)
    assert two_passes.updates.flops == 2 * ppo.updates.flops
    assert two_passes.pretraining.flops == ppo.pretraining.flops  # each text once per iteration
    plain = ppo_work(SHAPE, SHAPE, replace(config, ptx_coefficient=0.0), lengths, pretraining_length=6)
    assert plain.pretraining.flops == 0


def test_the_papers_compute() -> None:
    """4.9 and 60 petaflop/s-days for 175B SFT and PPO-ptx (5.1 of the paper), every sequence a full context of 2,048 tokens."""
    sft, _, ppo = plan_of(Plan(model="gpt3-175b", gpus=1)).steps
    assert sft.full_context.petaflops_days == pytest.approx(4.9, rel=0.15)
    assert ppo.full_context.petaflops_days == pytest.approx(60, rel=0.15)
    # By hand, 6 operations a parameter and token; attention adds 1.4 % at this width.
    by_hand = 6 * 174.6e9 * 2_048 * 12_725 * 16 / PETAFLOPS_DAY
    assert sft.full_context.petaflops_days == pytest.approx(by_hand, rel=0.02)
    assert sft.full_context.tokens == 12_725 * 16 * 2_048
    # The true count of the demonstrations is far lower; pretraining sequences are full contexts in truth too.
    assert sft.true.tokens == 12_725 * 16 * 512
    assert sft.true.petaflops_days < 0.3 * sft.full_context.petaflops_days
    assert 50 < ppo.true.petaflops_days < ppo.full_context.petaflops_days


def test_time() -> None:
    """SFT's operations at 40 % of an H100's 989e12 a second on 8 of them."""
    step = plan_of(Plan(model="gpt3-1.3b", gpus=8)).steps[0]
    assert step.seconds == pytest.approx(step.true.flops / (8 * 989e12 * 0.4))


# ------------------------------------------------------------------------------------------- what fits


def test_what_does_not_fit_says_what_to_change() -> None:
    plan = plan_of(Plan(model="gpt3-6b", gpus=8))
    assert plan.verdict.startswith("SFT, reward model fit 8 × h100 (80 GB each); PPO-ptx needs 112.")
    assert plan.verdict.endswith("use 11 GPUs and set tokens_per_microbatch = 8192.")
    # One GPU fewer would not do, whatever the microbatches.
    config = replace(PPOConfig(), tokens_per_microbatch=8_192)
    shape = shape_of("gpt3-6b")
    assert peak(ppo_memory(shape, shape, config, gpus=11)) <= 80e9
    assert peak(ppo_memory(shape, shape, replace(config, tokens_per_microbatch=16_384), gpus=11)) > 80e9
    assert peak(ppo_memory(shape, shape, replace(config, tokens_per_microbatch=1), gpus=10)) > 80e9
    assert plan_of(Plan(model="gpt3-6b", gpus=11, gpu="h200")).verdict == "All steps fit 11 × h200 (141 GB each)."
    # 175B: one sequence's activations are more than a GPU holds.
    assert "no number of GPUs is enough" in plan_of(Plan(model="gpt3-175b", gpus=512)).verdict


# ------------------------------------------------------------------------------------------- the command


def test_command_prints_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    code, said = run("plan", "--model", "gpt3-6b", "--gpus", 8)
    assert code == 0
    for word in ("6.66B parameters", "SFT", "reward model", "PPO-ptx", "KV cache", "petaflop/s-days", "use 11 GPUs"):
        assert word in said


def test_command_prints_json() -> None:
    code, said = run("plan", "--model", "miniature-medium", "--gpus", 0, "--json")
    assert code == 0
    plan = json.loads(said)
    assert [step["step"] for step in plan["steps"]] == ["SFT", "reward model", "PPO-ptx"]
    for step in plan["steps"]:
        assert step["fits"]
        assert step["peak_memory_bytes"] == max(moment["sum"] for moment in step["memory_bytes"].values())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--model", "gpt5"], "no model 'gpt5'"),
        (["--model", "gpt3-6b", "--gpus", "-1"], "--gpus is out of range"),
        (["--model", "gpt3-6b", "--utilization", "40"], "--utilization is out of range"),
        (["--model", "gpt3-6b", "--preset", "large"], "there is no such preset"),
        (["--model", "gpt3-6b", "--rankings", "0"], "there is no data to plan for"),
        (["--model", "gpt3-6b", "--prompt-tokens", "0"], "a mean length is out of range"),
        (["--model", "miniature-small", "--preset", "paper-1.3B"], "do not fit the model's context window"),
    ],
)
def test_mistakes_are_one_message(arguments: list[str], complaint: str) -> None:
    code, said = run("plan", *arguments)
    assert (code, complaint in said) == (2, True), said
    assert "Traceback" not in said


@pytest.mark.parametrize("content", ["{", "{}", '{"model_type": "t5"}', '{"model_type": "no-such-thing"}'])
def test_a_configuration_that_is_no_language_model(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    code, said = run("plan", "--model", tmp_path)
    assert code == 2, said
    assert str(tmp_path) in said
