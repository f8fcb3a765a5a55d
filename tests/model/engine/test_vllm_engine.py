"""vLLM behind the engine's call, with a stand-in that speaks its API and computes. For vLLM itself see test_real_vllm.py."""

from __future__ import annotations

import io
import math
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tests.vllm_stand_in as stand_in
import torch
from rich.console import Console
from tests.tiny import CONTEXT, END, VOCABULARY, last_hidden, plain, tiny_gpt2, tiny_llama, tiny_tokenizer
from transformers import PreTrainedModel

from heedful.conversation import turns_of
from heedful.errors import ConfigError, HeedfulError, UserError
from heedful.model import Generation, Sampling, add_adapter, generate, merged, scalar_model_from_causal
from heedful.model.answering import Answerer
from heedful.model.engine.vllm_engine import VLLMEngine, _only_engine, generator
from heedful.presets import resolved_preset
from heedful.project.project import Project
from heedful.records import Prompt
from heedful.training import ppo
from heedful.training.config import PPOConfig, SFTConfig
from heedful.training.rollouts import Models

VLLM: Any = stand_in
TOKENIZER = tiny_tokenizer()
RNG = random.Random(0)
PROMPTS = [[RNG.randrange(1, VOCABULARY) for _ in range(RNG.randrange(1, 12))] for _ in range(10)]


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "vllm", stand_in)
    monkeypatch.setattr(stand_in.LLM, "started", 0)
    _only_engine.cache_clear()
    yield
    _only_engine.cache_clear()


def with_vllm(
    model: PreTrainedModel, prompts: list[list[int]], sampling: Sampling, seeds: list[int], **more: Any
) -> list[Generation]:
    return generator("vllm")(model, prompts, sampling, seeds, tokenizer=TOKENIZER, **more)


def full_logprobs(model: PreTrainedModel, prompt: list[int], tokens: list[int]) -> list[float]:
    hidden = last_hidden(plain(model), [*prompt, *tokens])[len(prompt) - 1 : -1]
    logits = hidden @ model.get_output_embeddings().weight.T  # pyright: ignore[reportOptionalMemberAccess]
    return logits.log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None])[:, 0].tolist()


SAMPLINGS = [
    Sampling(max_tokens=6),
    Sampling(max_tokens=6, temperature=0.7, top_p=0.8, stop_tokens=(END,)),
    Sampling(max_tokens=6, temperature=1.5, top_k=5),
    Sampling(max_tokens=6, logit_bias={3: 5.0, 4: -math.inf}),
]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_logprobs_are_the_models_own_whatever_is_sampled_with(sampling: Sampling) -> None:
    model = tiny_gpt2()
    generations = with_vllm(model, PROMPTS, sampling, list(range(10)))
    for prompt, generation in zip(PROMPTS, generations, strict=True):
        np.testing.assert_allclose(generation.logprobs, full_logprobs(model, prompt, generation.tokens), rtol=0, atol=1e-5)
        assert 1 <= len(generation.tokens) <= 6
        assert 4 not in generation.tokens or not sampling.logit_bias


GREEDY = [
    Sampling(max_tokens=12, temperature=0.0),
    Sampling(max_tokens=12, temperature=0.0, stop=("7 w", "w33")),
    Sampling(max_tokens=12, temperature=0.0, logit_bias={9: 30.0}),
    Sampling(max_tokens=5, temperature=0.0, logit_bias={9: 300.0}, stop_tokens=(9,)),
    Sampling(max_tokens=5, temperature=0.0, logit_bias={END: 300.0}),  # end-of-text ends nothing unless it is asked to
]


@pytest.mark.parametrize("sampling", GREEDY)
def test_a_greedy_response_is_that_of_heedfuls_engine(sampling: Sampling) -> None:
    """Tokens, where and why they end, and their log-probs."""
    model = tiny_gpt2()
    prompts = [[i] for i in range(1, 40)]
    theirs = with_vllm(model, prompts, sampling, [0] * 39)
    ours = generate(model, prompts, sampling, [0] * 39, tokenizer=TOKENIZER)
    assert [replace(g, logprobs=[]) for g in theirs] == [replace(g, logprobs=[]) for g in ours]
    for left, right in zip(theirs, ours, strict=True):
        np.testing.assert_allclose(left.logprobs, right.logprobs, rtol=0, atol=1e-5)
    assert not sampling.stop or {g.stop for g in theirs} >= {None, "7 w"}


def test_top_k_and_top_p_leave_tokens_out() -> None:
    model, prompts = tiny_gpt2(), [[5]] * 200
    every = {g.tokens[0] for g in with_vllm(model, prompts, Sampling(max_tokens=1, temperature=2.0), list(range(200)))}
    logits = last_hidden(plain(model), [5])[-1] @ model.get_output_embeddings().weight.T  # pyright: ignore
    few = with_vllm(model, prompts, Sampling(max_tokens=1, temperature=2.0, top_k=3), list(range(200)))
    assert {g.tokens[0] for g in few} == set(logits.topk(3).indices.tolist()) < every
    one = with_vllm(model, prompts, Sampling(max_tokens=1, temperature=2.0, top_p=1e-6), list(range(200)))
    assert {g.tokens[0] for g in one} == {int(logits.argmax())}


def test_a_response_depends_on_its_seed_and_not_on_its_company() -> None:
    model, sampling = tiny_gpt2(), Sampling(max_tokens=8)
    prompts = [[3, 4]] * 6 + [[5]] * 2
    seeds = [11, 12, 13, 2**63 + 5, -1, 14, 11, 12]
    together = with_vllm(model, prompts, sampling, seeds)
    assert len({tuple(g.tokens) for g in together[:6]}) == 6  # the K samples of a prompt
    assert with_vllm(model, prompts[::-1], sampling, seeds[::-1])[::-1] == together
    assert with_vllm(model, prompts[2:3], sampling, seeds[2:3]) == together[2:3]


@pytest.mark.parametrize("sleeping", [False, True])
def test_each_call_uses_the_weights_as_they_are_then(sleeping: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What vLLM kept of a prompt from before an update would go on speaking for the old weights."""
    if sleeping:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (30, 60))
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    model, sampling = tiny_gpt2(), Sampling(max_tokens=4)
    before = with_vllm(model, PROMPTS, sampling, [7] * 10)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    after = with_vllm(model, PROMPTS, sampling, [7] * 10)
    assert stand_in.LLM.started == 1
    assert after != before
    for prompt, generation in zip(PROMPTS, after, strict=True):
        np.testing.assert_allclose(generation.logprobs, full_logprobs(model, prompt, generation.tokens), rtol=0, atol=1e-5)
    if sleeping:
        llm = _only_engine(VLLM)._llm
        assert llm._asleep == {"weights", "kv_cache"}
        assert llm.gpu_memory_utilization == pytest.approx(0.45)  # nine tenths of the half that is free


def test_another_architecture_or_type_starts_vllm_anew() -> None:
    sampling = Sampling(max_tokens=3, temperature=0.0)
    for model in (tiny_gpt2(), tiny_llama(), tiny_llama(3), tiny_llama().to(torch.bfloat16)):  # pyright: ignore[reportArgumentType]
        prompts = PROMPTS[:2]
        if model.dtype == torch.float32:
            expected = [g.tokens for g in generate(model, prompts, sampling, [0, 0])]
            assert [g.tokens for g in with_vllm(model, prompts, sampling, [0, 0])] == expected
        else:
            with_vllm(model, prompts, sampling, [0, 0])
            assert _only_engine(VLLM)._llm._model.dtype == torch.bfloat16
    assert stand_in.LLM.started == 3


def test_after_a_reload_that_failed_vllm_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sampling = tiny_gpt2(), Sampling(max_tokens=3)
    expected = with_vllm(model, PROMPTS, sampling, [0] * 10)

    def failing(llm: stand_in.LLM, weights_path: str) -> None:
        next(llm._model.parameters()).data.zero_()
        raise RuntimeError("half of the weights are in")

    with monkeypatch.context() as broken:
        broken.setattr(stand_in.LLM, "_reload_weights", failing)
        with pytest.raises(RuntimeError, match="half"):
            with_vllm(model, PROMPTS, sampling, [0] * 10)
    assert with_vllm(model, PROMPTS, sampling, [0] * 10) == expected
    assert stand_in.LLM.started == 2


def test_a_model_with_an_adapter_is_sent_merged() -> None:
    pytest.importorskip("peft")
    model = add_adapter(tiny_gpt2(), 2, "float32", seed=3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.3)
    sampling = Sampling(max_tokens=4)
    plain_model = merged(model)
    for prompt, generation in zip(PROMPTS, with_vllm(model, PROMPTS, sampling, [1] * 10), strict=True):
        expected = full_logprobs(plain_model, prompt, generation.tokens)
        np.testing.assert_allclose(generation.logprobs, expected, rtol=0, atol=1e-5)


def test_progress_and_wrong_arguments() -> None:
    model, done = tiny_gpt2(), []
    with_vllm(model, PROMPTS, Sampling(max_tokens=2), [0] * 10, advance=done.append)
    assert sum(done) == 10
    assert with_vllm(model, [], Sampling(max_tokens=1), []) == []
    with pytest.raises(ValueError, match="a seed for each of 2"):
        with_vllm(model, [[1], [2]], Sampling(max_tokens=1), [0])
    with pytest.raises(ValueError, match="empty"):
        with_vllm(model, [[]], Sampling(max_tokens=1), [0])
    with pytest.raises(ValueError, match="tokenizer"):
        generator("vllm")(model, [[1]], Sampling(max_tokens=1), [0])
    with pytest.raises(UserError, match="context window"):
        with_vllm(model, [[1] * CONTEXT], Sampling(max_tokens=1), [0])


def test_a_request_that_vllm_gives_up_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    complete = stand_in.LLM._complete

    def aborted(*arguments: Any) -> stand_in.CompletionOutput:
        return replace(complete(*arguments), finish_reason="abort")

    monkeypatch.setattr(stand_in.LLM, "_complete", aborted)
    with pytest.raises(HeedfulError, match="gave up a request"):
        with_vllm(tiny_gpt2(), [[1]], Sampling(max_tokens=1), [0])


def test_without_vllm_the_user_is_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"not installed[\s\S]*heedful\[vllm\]") as caught:
        train(tmp_path / "run")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run").exists()
    assert generator("heedful") is generate


def test_under_torchrun_each_rank_has_a_vllm_that_knows_of_no_other_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "TORCHELASTIC_RUN_ID": "7"}
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    for function, value in (("is_available", True), ("mem_get_info", (30, 60)), ("empty_cache", None), ("current_device", 1)):
        monkeypatch.setattr(torch.cuda, function, lambda value=value: value)
    with_vllm(tiny_gpt2(), PROMPTS[:2], Sampling(max_tokens=2), [0, 0])
    assert not set(ranks) & set(stand_in.LLM.environment)
    assert stand_in.LLM.environment["CUDA_VISIBLE_DEVICES"] == "6"
    assert {name: os.environ[name] for name in ranks} == ranks  # the training still needs them
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,6"


@pytest.mark.parametrize("free", [10, 10**9, None])
def test_weights_go_through_main_memory_where_there_is_room(
    free: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    for folder in (memory, disk):
        folder.mkdir()
    monkeypatch.setattr("heedful.model.engine.vllm_engine._SHARED_MEMORY", memory if free else tmp_path / "none")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=Path(path).stat() and free))
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    used: list[Path] = []
    reload_weights, read = stand_in.LLM._reload_weights, stand_in.AutoModelForCausalLM.from_pretrained

    def reloaded(llm: stand_in.LLM, weights_path: str) -> None:
        used.append(Path(weights_path))
        reload_weights(llm, weights_path)

    def started(path: str, **more: Any) -> PreTrainedModel:
        used.append(Path(path))
        return read(path, **more)

    monkeypatch.setattr(stand_in.LLM, "_reload_weights", reloaded)
    monkeypatch.setattr(stand_in.AutoModelForCausalLM, "from_pretrained", started)
    for _ in range(2):
        with_vllm(tiny_gpt2(), PROMPTS[:2], Sampling(max_tokens=2), [0, 0])
    expected = memory if free == 10**9 else disk
    assert len(used) == 2
    assert all(expected in path.parents for path in used)
    assert not [*memory.iterdir(), *disk.iterdir()]  # nothing stays


def test_vllm_sends_no_statistics_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_NO_USAGE_STATS", raising=False)
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    generator("vllm")
    assert os.environ["VLLM_NO_USAGE_STATS"] == "1"
    assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"  # what the user has set stays


# ---------------------------------------------------------------- where it is chosen


def train(folder: Path) -> PreTrainedModel:
    config = PPOConfig(
        engine="vllm",
        precision="float32",
        episodes=24,
        batch_size=8,
        minibatches=2,
        learning_rate=1e-2,
        ptx_coefficient=0.0,
        max_response_tokens=5,
        validate_every=2,
        num_validation_prompts=3,
    )
    reward = scalar_model_from_causal(tiny_gpt2(5), pad_token_id=None, eos_token_id=END)
    console = Console(file=io.StringIO())
    data = ppo.PPOData(PROMPTS, validation=PROMPTS[:3])
    return ppo.train_ppo(tiny_gpt2(), reward, TOKENIZER, data, config, folder, console=console)


def test_ppo_samples_each_batch_from_the_policy_that_it_trains(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """vLLM's log-probs of every rollout are those of the policy at that moment, by the layout that trains."""
    judge, first = ppo.judge, []

    def checking(models: Models, prompts: Any, generations: Any, config: Any) -> Any:
        judged = judge(models, prompts, generations, config)
        for row, generation in enumerate(generations):
            ours = judged.logprobs[row, : len(generation.tokens)]
            np.testing.assert_allclose(generation.logprobs, ours, rtol=0, atol=1e-5)
        first.append(float(models.policy.compute.get_parameter("transformer.wte.weight").detach()[0, 0]))
        return judged

    monkeypatch.setattr(ppo, "judge", checking)
    train(tmp_path / "run")
    assert len(set(first)) == 3  # the weights moved between the batches
    assert stand_in.LLM.started == 1


def test_answers_of_align_come_from_the_projects_engine() -> None:
    model = tiny_gpt2()
    prompts = [Prompt(id=f"p{i}", turns=turns_of(f"w{i} w{i + 1}")) for i in range(1, 6)]
    limits = SFTConfig(max_prompt_tokens=9, max_response_tokens=7)
    quiet = Console(file=io.StringIO())
    asked: dict[str, Any] = {"name": "m", "ids": [p.id for p in prompts], "temperature": 0.0, "seed": 0, "console": quiet}
    theirs = Answerer(model, TOKENIZER, limits, "vllm").answer(prompts, **asked)
    assert stand_in.LLM.started == 1
    assert theirs == Answerer(model, TOKENIZER, limits).answer(prompts, **asked)


@pytest.mark.parametrize(
    ("table", "expected"),
    [("", "heedful"), ('engine = "vllm"\n', "vllm"), ('engine = "vllm"\n[ppo]\nengine = "heedful"', "heedful")],
)
def test_the_projects_engine_is_ppos_unless_it_has_its_own(table: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "heedful.toml").write_text(f'[project]\nname = "p"\nbase_model = "m"\n{table}', encoding="utf-8")
    project = Project.load(tmp_path)
    assert project.engine == ("vllm" if table else "heedful")
    assert resolved_preset(project).ppo.engine == expected


def test_the_engine_of_another_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "heedful.toml").write_text('[project]\nname = "p"\nbase_model = "m"\nengine = "fast"', encoding="utf-8")
    with pytest.raises(ConfigError, match="engine"):
        Project.load(tmp_path)


def test_one_engine_serves_a_process() -> None:
    assert generator("vllm") is generator("vllm")
    assert isinstance(generator("vllm"), VLLMEngine)
