"""What is asked of the real vLLM, in its environment: ``python -m tests.model.engine.with_real_vllm FOLDER CASE ...``.

Each case asserts by itself; ``test_real_vllm.py`` starts them. Models are small Llamas whose heads are 32 wide: on a CPU, vLLM
has no narrower ones.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from tests.ports import free_port
from tests.tiny import CONTEXT, END, VOCABULARY, plain, tiny_tokenizer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from heedful.errors import UserError
from heedful.model import (
    Generation,
    Sampling,
    add_adapter,
    generate,
    load_causal_model,
    load_tokenizer,
    merged,
    readout,
    scalar_model_from_causal,
)
from heedful.model import generator as generator_named
from heedful.model.attention import use_heedful_attention
from heedful.model.engine.vllm_engine import VLLMEngine
from heedful.training import ppo, rollouts
from heedful.training.config import PPOConfig

TOKENIZER = tiny_tokenizer()
PROMPTS = [[int(t) for t in np.random.default_rng(i).integers(1, VOCABULARY, 1 + i % 11)] for i in range(24)]
LIKED = 7
# In float32: vLLM's products and ours add in another order.
CLOSE = {"rtol": 0, "atol": 2e-4}


def small_llama(seed: int = 0, scale: float = 0.3, intermediate: int = 96) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
        hidden_size=64,
        intermediate_size=intermediate,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        bos_token_id=END,
        eos_token_id=END,
        pad_token_id=None,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator) * 64**-0.5)
    return use_heedful_attention(model).eval()


def engine() -> VLLMEngine:
    found = generator_named("vllm")
    assert isinstance(found, VLLMEngine)
    return found


def asked(model: PreTrainedModel, prompts: list[list[int]], sampling: Sampling, seeds: list[int]) -> list[Generation]:
    return engine()(model, prompts, sampling, seeds, tokenizer=TOKENIZER)


@torch.no_grad()
def plain_logprobs(model: PreTrainedModel, prompt: list[int], tokens: list[int]) -> list[float]:
    logits = plain(model)(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None])[:, 0].tolist()


def greedy_text_is_ours(_: Path) -> None:
    """Tokens, where and why they end, and their log-probs."""
    model = small_llama()
    stops = [
        Sampling(max_tokens=12, temperature=0.0),
        Sampling(max_tokens=12, temperature=0.0, stop=("7 w", "w33")),
        Sampling(max_tokens=12, temperature=0.0, logit_bias={9: 30.0}),
        Sampling(max_tokens=5, temperature=0.0, logit_bias={9: 300.0}, stop_tokens=(9,)),
        Sampling(max_tokens=5, temperature=0.0, logit_bias={END: 300.0}),  # end-of-text ends nothing unless it is asked to
        Sampling(max_tokens=5, temperature=0.0, logit_bias={END: 300.0}, stop_tokens=(END,)),
    ]
    for sampling in stops:
        theirs = asked(model, PROMPTS, sampling, [0] * len(PROMPTS))
        ours = generate(model, PROMPTS, sampling, [0] * len(PROMPTS), tokenizer=TOKENIZER)
        assert [replace(g, logprobs=[]) for g in theirs] == [replace(g, logprobs=[]) for g in ours], sampling
        for left, right in zip(theirs, ours, strict=True):
            np.testing.assert_allclose(left.logprobs, right.logprobs, **CLOSE)


def sampling_is_as_asked(_: Path) -> None:
    """Log-probs are the model's own; a seed fixes a response; top-k, top-p and biases leave tokens out."""
    model = small_llama()
    for sampling in (
        Sampling(max_tokens=6),
        Sampling(max_tokens=6, temperature=0.7, top_p=0.8, stop_tokens=(END,)),
        Sampling(max_tokens=6, temperature=1.5, top_k=5),
        Sampling(max_tokens=6, logit_bias={3: 5.0, 4: -math.inf}),
    ):
        generations = asked(model, PROMPTS, sampling, list(range(len(PROMPTS))))
        for prompt, generation in zip(PROMPTS, generations, strict=True):
            np.testing.assert_allclose(generation.logprobs, plain_logprobs(model, prompt, generation.tokens), **CLOSE)
            assert 1 <= len(generation.tokens) <= 6
            assert 4 not in generation.tokens or not sampling.logit_bias
    # The draws follow the model's distribution: a chi-square test over the first token of one prompt.
    draws = [g.tokens[0] for g in asked(model, [[5]] * 2_000, Sampling(max_tokens=1), list(range(2_000)))]
    with torch.no_grad():
        shares = plain(model)(input_ids=torch.tensor([[5]])).logits[0, -1].softmax(-1).numpy()
    counted = np.bincount(draws, minlength=VOCABULARY)
    statistic = float(((counted - 2_000 * shares) ** 2 / (2_000 * shares)).sum())
    assert statistic < 120, statistic  # 63 degrees of freedom: above 120 in one case of 60,000
    few = asked(model, [[5]] * 200, Sampling(max_tokens=1, temperature=2.0, top_k=3), list(range(200)))
    assert {g.tokens[0] for g in few} == set(np.argsort(-shares)[:3].tolist()) < set(draws)
    one = asked(model, [[5]] * 20, Sampling(max_tokens=1, temperature=2.0, top_p=1e-6), list(range(20)))
    assert {g.tokens[0] for g in one} == {int(shares.argmax())}
    seeds = [11, 12, 13, 2**63 + 5, -1, 14, 11, 12]
    prompts = [[3, 4]] * 6 + [[5]] * 2
    together = asked(model, prompts, Sampling(max_tokens=8), seeds)
    assert len({tuple(g.tokens) for g in together[:6]}) == 6
    for order in ([*range(7, -1, -1)], [2, 3]):
        again = asked(model, [prompts[i] for i in order], Sampling(max_tokens=8), [seeds[i] for i in order])
        assert [g.tokens for g in again] == [together[i].tokens for i in order]


def each_call_uses_the_weights_as_they_are_then(_: Path) -> None:
    """Also behind the prefix cache, with an adapter, and in another type; a model of another shape restarts vLLM."""
    model, sampling = small_llama(), Sampling(max_tokens=4, temperature=0.0)
    seeds = [0] * len(PROMPTS)
    before = asked(model, PROMPTS, sampling, seeds)
    started = engine()._llm
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    after = asked(model, PROMPTS, sampling, seeds)
    assert engine()._llm is started
    assert after != before
    for prompt, generation in zip(PROMPTS, after, strict=True):
        np.testing.assert_allclose(generation.logprobs, plain_logprobs(model, prompt, generation.tokens), **CLOSE)
    other = small_llama(3, intermediate=128)
    expected = [g.tokens for g in generate(other, PROMPTS, sampling, seeds)]
    assert [g.tokens for g in asked(other, PROMPTS, sampling, seeds)] == expected
    assert engine()._llm is not started
    adapted = add_adapter(other, 2, "float32", seed=3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.3)
    whole = merged(adapted)
    for prompt, generation in zip(PROMPTS, asked(adapted, PROMPTS, sampling, seeds), strict=True):
        np.testing.assert_allclose(generation.logprobs, plain_logprobs(whole, prompt, generation.tokens), **CLOSE)
    with pytest.raises(UserError, match="context window"):
        asked(model, [[1] * CONTEXT], Sampling(max_tokens=1), [0])


def likes_one_word(model: PreTrainedModel, batch: Any, places: Tensor) -> Tensor:
    """In place of the reward model's scores: +1 for each LIKED token. The value function stays a real model."""
    if places is not batch.last:
        return readout.scalars(model, batch, places)
    return torch.where(batch.mask(), batch.pad((batch.targets == LIKED).float()), 0.0).sum(1)


def learn(folder: Path, name: str, iterations: int = 20, **changed: Any) -> list[dict[str, Any]]:
    """PPO's metrics with an engine. The policy learns to say one word."""
    rollouts.scalars = likes_one_word
    settings: dict[str, Any] = {
        "engine": name,
        "precision": "float32",
        "episodes": 48 * iterations,
        "batch_size": 48,
        "minibatches": 4,
        "learning_rate": 5e-3,
        "value_learning_rate": 5e-3,
        "warmup_iterations": 2,
        "kl_coefficient": 0.01,
        "ptx_coefficient": 0.0,
        "max_response_tokens": 6,
        "average_decay": 0.5,
        "num_validation_prompts": 4,
    }
    config = PPOConfig(**{**settings, **changed})
    torch.manual_seed(5)
    reward = scalar_model_from_causal(small_llama(5), pad_token_id=None, eos_token_id=END)
    data = ppo.PPOData(PROMPTS, validation=PROMPTS[:4])
    ppo.train_ppo(small_llama(scale=0.1), reward, TOKENIZER, data, config, folder, console=Console(file=StringIO()))
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def ppo_learns_as_with_our_engine(folder: Path) -> None:
    """Both engines begin with the same reward and KL, and learn as much from the same number of episodes."""
    judge, differences = ppo.judge, []

    def compared(models: Any, prompts: Any, generations: list[Generation], config: Any) -> Any:
        """The log-probs that vLLM reports are those of the policy that is trained: its weights are the newest."""
        judged = judge(models, prompts, generations, config)
        for row, generation in enumerate(generations):
            ours = judged.logprobs[row, : len(generation.tokens)].numpy()
            differences.append(float(np.abs(ours - np.array(generation.logprobs)).max()))
        return judged

    ppo.judge = compared
    rewards = {}
    for name in ("heedful", "vllm"):
        rows = learn(folder / name, name)
        rewards[name] = [row["reward"] for row in rows]
        assert abs(rows[0]["kl"]) < 1e-3
    print(json.dumps({"rewards": rewards, "largest difference of log-probs": max(differences)}), flush=True)
    assert max(differences) < 5e-4
    first = {name: rows[0] for name, rows in rewards.items()}
    last = {name: float(np.mean(rows[-3:])) for name, rows in rewards.items()}
    assert max(first.values()) < 0.5
    assert min(last.values()) > 3.0
    assert abs(last["vllm"] - last["heedful"]) < 0.25 * last["heedful"]


def one_rank(folder: Path) -> None:
    """One of two ranks, joined as torchrun joins them: each has its own vLLM, and the model is sharded (FSDP2)."""
    torch.set_num_threads(1)
    learn(folder, "vllm", iterations=3)


def several_ranks_learn_what_one_learns(folder: Path) -> None:
    """Two ranks' responses and updates are those of one process, which trains in the same way."""
    port = free_port()
    command = [sys.executable, "-m", "tests.model.engine.with_real_vllm", str(folder / "two"), "one_rank"]
    ranks = [
        subprocess.Popen(
            command,
            env=os.environ
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
            | {"MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "tests"},
        )
        for rank in range(2)
    ]
    one = learn(folder / "one", "vllm", iterations=3)
    assert [rank.wait(600) for rank in ranks] == [0, 0]
    two = [json.loads(line) for line in (folder / "two" / "metrics.jsonl").read_text().splitlines()]
    assert len(one) == len(two) == 3
    for left, right in zip(one, two, strict=True):
        for name in ("reward", "kl", "length", "policy_loss"):
            assert abs(left[name] - right[name]) < 1e-4, (name, left[name], right[name])


def a_real_chat_model(_: Path) -> None:
    """SmolLM2 (HEEDFUL_REAL_MODEL) in bfloat16: log-probs near, greedy text equal up to near ties."""
    model = load_causal_model(os.environ["HEEDFUL_REAL_MODEL"], "bfloat16")
    tokenizer: Any = load_tokenizer(os.environ["HEEDFUL_REAL_MODEL"])
    questions = ("What is the capital of France?", "Name three colours.", "Write a short poem about the sea.")
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": q}], add_generation_prompt=True, return_dict=False)
        for q in questions
    ]
    end = tokenizer.eos_token_id
    sampling = Sampling(max_tokens=40, temperature=0.0, stop_tokens=(end,))
    theirs = engine()(model, prompts, sampling, [0] * 3, tokenizer=tokenizer)
    exact = load_causal_model(os.environ["HEEDFUL_REAL_MODEL"])
    ours = generate(exact, prompts, sampling, [0] * 3)
    for prompt, left, right in zip(prompts, theirs, ours, strict=True):
        expected = plain_logprobs(exact, prompt, left.tokens)
        assert float(np.abs(np.array(left.logprobs) - expected).mean()) < 0.05
        same = next((i for i, (a, b) in enumerate(zip(left.tokens, right.tokens, strict=False)) if a != b), None)
        # bfloat16 against float32: where they part, the two tokens are nearly as likely.
        if same is not None:
            parted = plain_logprobs(exact, prompt + right.tokens[:same], [left.tokens[same]])[0]
            assert right.logprobs[same] - parted < 0.25, (same, right.logprobs[same], parted)
    assert "Paris" in tokenizer.decode(theirs[0].tokens)
    assert theirs[0].tokens[-1] == end
    assert theirs[0].finished


CASES: dict[str, Callable[[Path], None]] = {
    case.__name__: case
    for case in (
        greedy_text_is_ours,
        sampling_is_as_asked,
        each_call_uses_the_weights_as_they_are_then,
        ppo_learns_as_with_our_engine,
        several_ranks_learn_what_one_learns,
        a_real_chat_model,
        one_rank,
    )
}

if __name__ == "__main__":
    for name in sys.argv[2:]:
        CASES[name](Path(sys.argv[1]))
        print(name, "done", flush=True)
