"""The self-check passes on every family and sees each kind of mistake; training refuses to start where it fails."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from tests.align.small_project import run
from tests.tiny import CONTEXT, END, FAMILIES, snapshot, tiny_gemma2, tiny_gpt2, tiny_llama, tiny_mistral, tiny_tokenizer
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from heedful.errors import CheckError, ModelError, NumericalError
from heedful.functional.fast import kernels
from heedful.model import attention, dense_blocks, doctor, examine, layouts, save_model, scalar_model_from_causal
from heedful.model.attention import use_heedful_attention
from heedful.model.doctor import quick_check
from heedful.model.encoding import Example, RankedPrompt
from heedful.model.fast.ranges import RangesLayout
from heedful.model.precision import frozen
from heedful.training.config import PPOConfig, PretrainConfig, RewardConfig, SFTConfig
from heedful.training.ppo import PPOData, train_ppo
from heedful.training.pretrain import train_pretrain
from heedful.training.pretraining_text import PretrainingText
from heedful.training.reward import train_reward
from heedful.training.sft import SFTData, train_sft

LAYOUTS = ["one sequence alone", "packed in reverse order", "packed with others", "shared prompt"]
PADDED = ["padded on the left", "padded on the right"]


def scalar(make: Callable[[], PreTrainedModel] = tiny_gpt2) -> PreTrainedModel:
    torch.manual_seed(0)
    return scalar_model_from_causal(make(), pad_token_id=None, eos_token_id=END)


def saved(model: PreTrainedModel, path: Path) -> Path:
    save_model(model, tiny_tokenizer(), path)
    return path


def failed_names(checks: list[doctor.Check]) -> list[str]:
    return list(dict.fromkeys(check.name for check in checks if not check.passed))


# ---------------------------------------------------------------- what is right passes


@pytest.mark.parametrize("make", FAMILIES, ids=lambda make: make.__name__)
def test_every_family_passes_the_quick_check_as_policy_and_as_reward_model(make: Callable[[], PreTrainedModel]) -> None:
    quick_check(make())
    quick_check(scalar(make))
    quick_check(frozen(make(), "bfloat16"))


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_mistral], ids=lambda make: make.__name__)
def test_a_whole_examination_passes_and_says_what_was_compared(make: Callable[[], PreTrainedModel], tmp_path: Path) -> None:
    checks = examine(saved(make(), tmp_path / "model"), "bfloat16")
    assert failed_names(checks) == []
    causal = [(c.precision, c.name) for c in checks if c.quantity == "log-prob"]
    both = [*LAYOUTS, *PADDED, "cached decoding"]
    assert causal == [("float32", n) for n in [*both, "saved and loaded"]] + [("bfloat16", n) for n in both]
    for quantity in ("value", "score"):
        names = [(c.precision, c.name) for c in checks if c.quantity == quantity]
        assert names == [("float32", n) for n in [*LAYOUTS, *PADDED, "saved and loaded"]] + [
            ("bfloat16", n) for n in [*LAYOUTS, *PADDED]
        ]
    for check in checks:
        if check.precision == "float32" and check.name != "saved and loaded":
            assert check.difference < check.limit / 5  # the limit is no coincidence ...
            assert check.limit < 0.02  # ... and not so wide that anything passes
    assert all(c.limit == 0 for c in checks if c.name == "saved and loaded")


def test_a_reward_models_folder_is_examined_as_one(tmp_path: Path) -> None:
    checks = examine(saved(scalar(), tmp_path / "rm"), "float32")
    assert {c.quantity for c in checks} == {"value", "score"}
    assert failed_names(checks) == []


def test_long_sequences_are_among_the_examples() -> None:
    """Past the size at which attention takes another kernel, and past the sliding window."""
    config = GPT2Config(vocab_size=64, n_positions=1024, n_embd=8, n_layer=1, n_head=1)
    model = use_heedful_attention(GPT2LMHeadModel(config))
    assert max(len(p) for p in doctor.full_examples(model).prompts) > attention._LARGEST_EXPLICIT_BLOCK
    mistral = tiny_mistral()
    assert max(len(p) for p in doctor.full_examples(mistral).prompts) > mistral.config.sliding_window
    prompts, new_tokens = doctor.decoding_prompts(mistral)
    assert any(len(p) < mistral.config.sliding_window < len(p) + new_tokens for p in prompts)
    assert max(map(len, prompts)) + new_tokens <= CONTEXT
    for prompt, response in doctor.full_examples(mistral).pairs:
        assert len(prompt) + len(response) <= CONTEXT


@pytest.mark.parametrize("context", [2, 3, 5, 20])
def test_a_model_with_a_tiny_window_can_be_checked(context: int, tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=64, n_positions=context, n_embd=8, n_layer=1, n_head=1, eos_token_id=END, bos_token_id=END)
    model = use_heedful_attention(GPT2LMHeadModel(config).eval())
    quick_check(model)
    assert failed_names(examine(saved(model, tmp_path / "model"), "float32")) == []


@pytest.mark.parametrize("training", [True, False])
def test_a_quick_check_leaves_everything_as_it_was_and_costs_little(training: bool) -> None:
    model = tiny_gpt2().train(training)
    model.requires_grad_(True)
    before, random_state = snapshot(model), torch.get_rng_state()
    passes: list[int] = []
    model.get_input_embeddings().register_forward_hook(lambda _module, arguments, _: passes.append(arguments[0].numel()))
    quick_check(model)
    assert model.training is training
    assert model.config._attn_implementation == attention.ATTENTION_NAME
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert len(passes) <= 10
    assert max(passes) <= 32  # prompts are filled up to so many rows


# ---------------------------------------------------------------- each kind of mistake is seen


def show_the_future(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "usable", lambda _: False)
    monkeypatch.setattr(dense_blocks, "_causal", lambda length: torch.ones(length, length, dtype=torch.bool)[None, None])


def test_a_mask_that_shows_the_future_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    show_the_future(monkeypatch)
    with pytest.raises(CheckError, match=r"packed with others \(float32\), and \d more") as caught:
        quick_check(tiny_gpt2())
    message = str(caught.value)
    assert "log-prob of plain transformers within" in message
    assert "off" in message
    assert "GPT2LMHeadModel" in message
    assert "docs/families.md" in message
    with pytest.raises(CheckError, match="value"):
        quick_check(scalar())


class ForgetsPositions(GPT2LMHeadModel):
    """An architecture that counts positions along the row, whatever it is told: only the first sequence is right."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.transformer.register_forward_pre_hook(self._forget, with_kwargs=True)

    @staticmethod
    def _forget(module: Any, arguments: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        del module
        positions = torch.arange(given["input_ids"].shape[1])[None] if "layout" in given else given.get("position_ids")
        return arguments, {**given, "position_ids": positions}


def test_positions_that_are_not_the_sequences_own_are_seen() -> None:
    model = ForgetsPositions(cast(GPT2Config, tiny_gpt2().config))
    model.load_state_dict(tiny_gpt2().state_dict())
    with pytest.raises(CheckError, match="packed with others"):
        quick_check(use_heedful_attention(model.eval()))


def test_responses_that_see_each_other_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared prompt laid out as one long sequence."""

    def one_row(positions: Tensor, prompt_start: Any, prompt_lengths: Any, *branches: Any) -> Any:
        if branches:
            _, lengths, group = branches
            prompt_lengths = prompt_lengths + np.bincount(group, weights=lengths).astype(np.int64)
        return RangesLayout(positions, prompt_start, prompt_lengths)

    monkeypatch.setattr(layouts, "RangesLayout", one_row)
    for model in (tiny_gpt2(), scalar()):
        with pytest.raises(CheckError, match="shared prompt"):
            quick_check(model)


def test_a_head_that_does_more_than_multiply_is_seen() -> None:
    """Were its refusal at loading forgotten: Gemma 2's capped logits."""
    model = tiny_gemma2()
    model.config.final_logit_softcapping = 3.0
    with pytest.raises(CheckError, match="packed with others"):
        quick_check(model)


def test_a_scalar_heads_bias_is_seen() -> None:
    model = scalar()
    model.score.bias = torch.nn.Parameter(torch.ones(1))  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(CheckError, match="score of plain transformers"):
        quick_check(model)


def test_a_cache_that_is_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the last decoded token had been computed without its neighbour in the cache."""
    generate = doctor.generate

    def wrong(model: PreTrainedModel, *arguments: Any, **more: Any) -> Any:
        other = copy.deepcopy(model)
        with torch.no_grad():
            next(iter(other.base_model.parameters())).mul_(1.01)
        right, drifted = generate(model, *arguments, **more), generate(other, *arguments, **more)
        return [type(r)(r.tokens, [*r.logprobs[:-1], d.logprobs[-1]], r.finished) for r, d in zip(right, drifted, strict=True)]

    monkeypatch.setattr(doctor, "generate", wrong)
    with pytest.raises(CheckError, match="cached decoding"):
        quick_check(tiny_gpt2())


def test_a_folder_that_holds_another_model_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = saved(tiny_llama(), tmp_path / "model")

    def rounded(model: PreTrainedModel, tokenizer: Any, path: Path) -> None:
        save_model(copy.deepcopy(model).bfloat16(), tokenizer, path)

    monkeypatch.setattr(doctor, "save_model", rounded)
    assert failed_names(examine(folder, "float32")) == ["saved and loaded"]


def test_padding_that_plain_transformers_gets_wrong_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    padded = doctor.padded_readings

    def without_position_ids(model: PreTrainedModel, examples: Any, side: str) -> Any:
        forget = model.base_model.register_forward_pre_hook(
            lambda _, args, given: (args, {**given, "position_ids": None}), with_kwargs=True
        )
        try:
            return padded(model, examples, side)
        finally:
            forget.remove()

    monkeypatch.setattr(doctor, "padded_readings", without_position_ids)
    checks = examine(saved(tiny_gpt2(), tmp_path / "model"), "float32")
    assert failed_names(checks) == ["padded on the left"]


def test_bfloat16_is_held_to_what_plain_transformers_loses_to_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Noise of five times the size is seen, though float32 is right."""
    folder = saved(tiny_gpt2(), tmp_path / "model")
    read = doctor._read

    def noisy(model: PreTrainedModel, batch: Any) -> Any:
        reading = read(model, batch)
        if model.dtype == torch.float32:
            return reading
        return {name: numbers + 0.5 * torch.ones_like(numbers) * numbers.abs().max() for name, numbers in reading.items()}

    monkeypatch.setattr(doctor, "_read", noisy)
    checks = examine(folder, "bfloat16")
    assert {c.precision for c in checks if not c.passed} == {"bfloat16"}
    assert failed_names(checks) == LAYOUTS


def test_code_that_cannot_work_with_a_layout_is_an_explained_error() -> None:
    model = tiny_gpt2()

    def refuses(module: Any, arguments: Any, given: dict[str, Any]) -> None:
        if "layout" in given:
            raise TypeError("forward() got an unexpected keyword argument 'layout'")

    model.base_model.register_forward_pre_hook(refuses, with_kwargs=True)
    with pytest.raises(CheckError, match="unexpected keyword argument 'layout'") as caught:
        quick_check(model)
    assert "could not be run" in str(caught.value)


@pytest.mark.parametrize("make", [tiny_gpt2, scalar])
def test_a_model_of_nan_is_not_called_a_layouts_failure(make: Callable[[], PreTrainedModel]) -> None:
    model = make()
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    with pytest.raises(NumericalError, match="the model's own outputs"):
        quick_check(model)


def test_a_difference_that_is_not_a_number_has_not_passed() -> None:
    assert not doctor.Check(name="x", quantity="y", precision="float32", difference=math.nan, limit=1.0).passed


# ---------------------------------------------------------------- training refuses to start


def text() -> PretrainingText:
    return PretrainingText(np.full(60, 5, dtype=np.int32), np.arange(0, 61, 6))


def start_pretrain(folder: Path) -> None:
    train_pretrain(tiny_gpt2(), tiny_tokenizer(), text(), PretrainConfig(num_tokens=20, batch_tokens=20), folder)


def start_sft(folder: Path) -> None:
    examples = [Example([3], [4, END])]
    train_sft(tiny_gpt2(), tiny_tokenizer(), SFTData(examples, examples), SFTConfig(epochs=1, candidates=1), folder)


def start_reward(folder: Path) -> None:
    rankings = [RankedPrompt("p", ("x", "y"), [3], [[4, END], [5, END]], ("a",), ((1, 2),))]
    config = RewardConfig(batch_size=1)
    train_reward(scalar(), tiny_tokenizer(), rankings, config, folder, validation=[], demonstrations=[])


def start_ppo(folder: Path) -> None:
    config = PPOConfig(episodes=2, batch_size=2, minibatches=1, ptx_coefficient=0, max_response_tokens=4)
    train_ppo(tiny_gpt2(), scalar(), tiny_tokenizer(), PPOData([[3], [4]]), config, folder)


@pytest.mark.parametrize("start", [start_pretrain, start_sft, start_reward, start_ppo])
def test_training_refuses_to_start_and_leaves_no_run(
    start: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        show_the_future(broken)
        with pytest.raises(CheckError, match="self-check"):
            start(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    start(tmp_path / "run")
    assert (tmp_path / "run" / "model").is_dir()


# ---------------------------------------------------------------- the command


def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved(tiny_gpt2(), tmp_path / "model")
    code, said = run("doctor", folder, "--precision", "float32")
    assert code == 0
    assert f"{folder}: all 22 checks passed" in said
    for name in [*LAYOUTS, *PADDED, "cached decoding", "saved and loaded"]:
        assert name in said


def test_the_command_ends_with_1_where_a_check_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tiny_gpt2(), tmp_path / "model")
    show_the_future(monkeypatch)
    code, said = run("doctor", folder)
    assert code == 1
    assert "FAILED" in said
    assert "the self-check of the model failed: one sequence alone (float32)" in said
    assert str(folder) in said


def test_the_command_ends_with_2_where_there_is_no_model(tmp_path: Path) -> None:
    code, said = run("doctor", tmp_path)
    assert code == 2
    assert "there is no model here" in said


def test_a_damaged_configuration_is_a_model_error(tmp_path: Path) -> None:
    folder = saved(tiny_gpt2(), tmp_path / "model")
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError):
        examine(folder, "float32")
