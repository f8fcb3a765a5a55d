"""One step in a process of its own: ``python -m tests.planning.measured sft|ppo`` prints the bytes that it took at its peak.

The peak is the process's own less what it holds after the imports and the same step with a model of a few
thousand weights: the interpreter, torch and its kernels. Who runs it sets MALLOC_MMAP_THRESHOLD_ so that each tensor is
mapped by itself and given back when it is freed: the peak is then what the tensors need, without the holes of a heap.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from tests.tiny import END, tiny_tokenizer
from transformers import GPT2Config, PreTrainedModel

from heedful.training.config import PPOConfig, SFTConfig

LENGTH = 128
VOCABULARY = 4_096
CONFIG = GPT2Config(
    vocab_size=VOCABULARY,
    n_positions=2 * LENGTH,
    n_embd=384,
    n_layer=6,
    n_head=6,
    activation_function="gelu",
    bos_token_id=END,
    eos_token_id=END,
    pad_token_id=None,
)
"""12.3M parameters."""
SFT = SFTConfig(
    epochs=1,
    batch_size=32,
    candidates=1,
    tokens_per_microbatch=2_048,
    max_prompt_tokens=LENGTH // 2,
    max_response_tokens=LENGTH // 2,
)
"""Two optimiser steps of two microbatches each."""
PPO = PPOConfig(
    episodes=32,
    batch_size=32,
    minibatches=2,
    tokens_per_microbatch=1_024,
    ptx_coefficient=0,
    max_prompt_tokens=LENGTH // 2,
    max_response_tokens=LENGTH // 2,
)
"""One iteration of two optimiser steps, each of two microbatches."""


def run_sft(model: PreTrainedModel, config: SFTConfig, folder: Path) -> None:
    from heedful.model.encoding import Example
    from heedful.training.sft import SFTData, train_sft

    rng = np.random.default_rng(0)
    half = LENGTH // 2
    examples = [
        Example(rng.integers(1, 60, half).tolist(), [*rng.integers(1, 60, half - 1).tolist(), END])
        for _ in range(2 * config.batch_size)
    ]
    train_sft(model, tiny_tokenizer(), SFTData(examples, examples[:2]), config, folder, console=Console(file=StringIO()))


def run_ppo(model: PreTrainedModel, config: PPOConfig, folder: Path) -> None:
    from heedful.model import scalar_model_from_causal
    from heedful.training.ppo import PPOData, train_ppo

    rng = np.random.default_rng(0)
    if config.lora_rank:
        model.to(torch.bfloat16)  # pyright: ignore[reportArgumentType]  # as it is loaded: there is no float32 base
    reward = scalar_model_from_causal(model, pad_token_id=None, eos_token_id=END)
    prompts = [rng.integers(1, 60, LENGTH // 2).tolist() for _ in range(config.batch_size)]
    train_ppo(model, reward, tiny_tokenizer(), PPOData(prompts), config, folder, console=Console(file=StringIO()))


STEPS: dict[str, tuple[Any, Any]] = {
    "sft": (run_sft, SFT),
    "ppo": (run_ppo, PPO),
    "sft-checkpointing": (run_sft, replace(SFT, activation_checkpointing=True)),
    "ppo-lora": (run_ppo, replace(PPO, lora_rank=8)),
}


def resident(field: str) -> int:
    """Bytes: VmRSS is what is resident now, VmHWM the most so far (getrusage's would include the parent's, before exec)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def main(step: str) -> None:
    from transformers import GPT2LMHeadModel

    from heedful.model.attention import use_heedful_attention

    torch.manual_seed(0)
    run, config = STEPS[step]
    small = GPT2Config(**{**CONFIG.to_dict(), "n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 64})
    with tempfile.TemporaryDirectory() as folder:
        run(use_heedful_attention(GPT2LMHeadModel(small)), config, Path(folder) / "small")
        before = resident("VmRSS")
        run(use_heedful_attention(GPT2LMHeadModel(CONFIG)), config, Path(folder) / "measured")
    print(json.dumps({"peak_bytes": resident("VmHWM") - before, "before_bytes": before}))


if __name__ == "__main__":
    main(sys.argv[1])
