"""A miniature that aligns in seconds: a random GPT-2 of one layer, the shipped tokenizer, few prompts, simulated labelers."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from heedful.align import controls
from heedful.miniature import preparation as miniature
from heedful.model.loading import load_tokenizer

SETTINGS = """
[limits]
max_prompt_tokens = 64
max_response_tokens = 6

[sft]
epochs = 1
candidates = 1
checkpoint_seconds = 1e-9

[initial_policy]
epochs = 1
candidates = 1

[reward]
epochs = 1
batch_size = 4
checkpoint_seconds = 1e-9

[ppo]
episodes = 32
batch_size = 8
minibatches = 2
ptx_context_length = 16
checkpoint_seconds = 1e-9

[collect]
prompts = 8
validation_prompts = 4
labelers_per_prompt = 1
agreement_labelers = 1
smallest_k = 3
largest_k = 4

[evaluate]
prompts = 6
labelers_per_prompt = 1
benchmark_items = 2
choice_prompts = 4

[rounds]
prompts = 6
validation_prompts = 2
prompts_sampled = 2
ensemble = 2
"""


def few_data() -> None:
    """Let this process make a miniature of very few prompts and documents."""
    miniature.DEMONSTRATED = {"train": 12, "valid": 4}
    miniature.UNLABELED = {"train": 24, "valid": 8, "test": 8}
    miniature.OF_FURTHER_ROUND = {"train": 24, "valid": 6, "test": 8}
    miniature.PRETRAINING_DOCUMENTS = {"train": 40, "valid": 10}
    controls.NUM_PROMPTS = 4


def make(folder: Path, model: Path, rounds: str = "") -> Path:
    """A project like the miniature, of one tiny model. ``rounds``: more settings of the table [rounds]."""
    tokenizer = load_tokenizer(miniature.base_model_folder("small"))
    end = tokenizer.eos_token_id
    assert isinstance(end, int)
    if not model.is_dir():
        config = GPT2Config(
            vocab_size=len(tokenizer), n_positions=256, n_embd=16, n_layer=1, n_head=2, bos_token_id=end, eos_token_id=end
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            random = GPT2LMHeadModel(config)
        odd = [i for i in range(len(tokenizer)) if i != end and not _is_plain(str(tokenizer.decode([i])))]
        with torch.no_grad():  # these get logits of about -50: a byte that is no text could be stored nowhere
            random.transformer.ln_f.bias[0] = 5.0
            random.transformer.wte.weight[odd, 0] = -10.0
        random.save_pretrained(model)
        tokenizer.save_pretrained(model)
    for name in ("data", "runs", "tasks"):
        (folder / name).mkdir(parents=True)
    project = f"""[project]
name = "small miniature"
base_model = {json.dumps(str(model))}
labelers = "simulated"
preset = "miniature"
"""
    (folder / "heedful.toml").write_text(project + SETTINGS + rounds)
    return folder


def _is_plain(text: str) -> bool:
    return all(letter == "\n" or " " <= letter <= "~" for letter in text)
