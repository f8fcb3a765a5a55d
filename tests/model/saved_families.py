"""A policy and a reward model of every family, saved, with what Heedful itself says of them: for other programs to read.

The models are small, with heads 32 wide: on a CPU, vLLM has no narrower ones.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.model.chat_templates import FAMILIES as CHATS
from tests.model.chat_templates import OWN, Family, tokenizer_of
from tests.tiny import FAMILIES, plain, shaken, tiny_llama
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from heedful.conversation import Turn, continuation, messages_of, turns_of
from heedful.model import (
    Sampling,
    generate,
    load_causal_model,
    load_scalar_model,
    load_tokenizer,
    pack,
    save_model,
    scalar_model_from_causal,
)
from heedful.model.chat_template import Template, keep_template
from heedful.model.end_tokens import end_tokens, response_end
from heedful.model.readout import scalars, target_logprobs
from heedful.model.scalar_models import shift_scalar_model
from heedful.model.template import prompt_tokens, response_tokens
from heedful.records import Prompt

CHAT_OF = {
    "gpt2": "GPT-2, template of the user's",
    "gpt_neox": "GPT-NeoX, template of the user's",
    "opt": "OPT, template of the user's",
    "llama": "Llama 3",
    "qwen2": "Qwen2.5",
    "qwen3": "Qwen3",
    "gemma": "Gemma",
    "gemma2": "Gemma",
    "gemma3_text": "Gemma 3",
    "mistral": "Mistral",
}
GREEDY = 8
WINDOW = 256
CLOSE = 1e-5
"""In float32; of log-probs and scores up to about 5."""


def qwen2_without_window() -> PreTrainedModel:
    """As Qwen2.5 is released."""
    shape: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_key_value_heads": 1}
    return Qwen2ForCausalLM(Qwen2Config(**shape, num_hidden_layers=2, vocab_size=64))


def cases() -> list[tuple[str, Callable[[], PreTrainedModel], str, str]]:
    """Folder, family, the name of its templates, and which of ``plain`` and ``chat``; of Llama the second generation too."""
    found = [(make, CHAT_OF[make().config.model_type]) for make in [*FAMILIES, qwen2_without_window]]
    found.append((tiny_llama, "Llama 2"))
    return [
        (f"{make.__name__}, {chat}, {kind}".replace(" ", "_"), make, chat, kind)
        for make, chat in found
        for kind in ("plain", "chat")
    ]


def save_all(root: Path) -> dict[str, dict[str, Any]]:
    """Save all cases into folders of ``root``; returns what Heedful says of each, by the folder's name."""
    return {name: save_family(root / name, make, CHATS[chat], kind) for name, make, chat, kind in cases()}


def wide(make: Callable[[], PreTrainedModel], tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """The tiny model's family with two heads 32 wide and the tokenizer's vocabulary."""
    tiny = make()
    config: Any = copy.deepcopy(tiny.config)
    config.vocab_size, config.max_position_embeddings = len(tokenizer), WINDOW
    config.hidden_size, config.num_attention_heads = 64, 2
    for name, value in (("num_key_value_heads", 1), ("head_dim", 32), ("intermediate_size", 96)):
        if getattr(config, name, None) is not None:
            setattr(config, name, value)
    if config.model_type == "opt":
        config.word_embed_proj_dim *= 2
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    return shaken(type(tiny)(config), 0, 0.15, heedful=True)


def save_family(folder: Path, make: Callable[[], PreTrainedModel], chat: Family, kind: str) -> dict[str, Any]:
    """With the tokenizer as a base model's folder gives it: transformers 5 splits every Qwen2 folder's words in its own way."""
    template: Template = "plain" if kind == "plain" else OWN if chat.template is OWN else "chat"
    made = tokenizer_of(chat)
    model = wide(make, made)
    base = folder.with_name(f"{folder.name}.base")
    plain(model).save_pretrained(base)
    made.save_pretrained(base)
    tokenizer: Any = load_tokenizer(base)
    shutil.rmtree(base)
    return save_models(folder, model, tokenizer, template, system=chat.system)


def save_models(
    folder: Path, model: PreTrainedModel, tokenizer: Any, template: Template = "plain", *, system: bool = True
) -> dict[str, Any]:
    """As training leaves a policy and its reward model, whose scores were shifted; returns what Heedful says of them."""
    end = response_end(tokenizer, template)
    answers = _answers(tokenizer, template, end, system)
    keep_template(tokenizer, template)
    save_model(model, tokenizer, folder)
    torch.manual_seed(1)
    scalar = scalar_model_from_causal(model, pad_token_id=tokenizer.pad_token_id, eos_token_id=end)
    shift_scalar_model(scalar, 1.5)
    save_model(scalar, tokenizer, folder / "reward_model")
    (folder / "given.json").write_text(json.dumps({"tokens": answers[0]["prompt"], "text": "The Rhine", "answers": answers}))
    return _said(folder, tokenizer, answers)


def _answers(tokenizer: PreTrainedTokenizerFast, template: Template, end: int, system: bool) -> list[dict[str, Any]]:
    said = {
        turns_of("Name a river\n"): "- a\n  b 12 é, it's a river",
        (Turn("user", "Name"), Turn("assistant", "The  Rhine"), Turn("user", "a river")): "The Rhine",
    }
    if system:
        said[(Turn("system", "Name a"), Turn("user", "river"))] = "The Rhine"
    prompts = [Prompt(id=str(i), turns=turns) for i, turns in enumerate(said)]
    befores = prompt_tokens(tokenizer, prompts, template)
    afters = response_tokens(tokenizer, prompts, list(said.values()), template)
    return [
        {
            **({"text": prompt.text} if template == "plain" else {"messages": messages_of(prompt.turns)}),
            "said": continuation(prompt.turns, answer) if template == "plain" else answer,
            "prompt": before,
            "tokens": [*after, end],
            "greedy": GREEDY,
        }
        for prompt, answer, before, after in zip(prompts, said.values(), befores, afters, strict=True)
    ]


@torch.no_grad()
def _said(folder: Path, tokenizer: PreTrainedTokenizerFast, answers: list[dict[str, Any]]) -> dict[str, Any]:
    """What Heedful reads in the saved folder, all answers in one row."""
    model, scalar = load_causal_model(folder, "float32"), load_scalar_model(folder / "reward_model", "float32")
    prompts, rows = [answer["prompt"] for answer in answers], [answer["tokens"] for answer in answers]
    batch, lengths = pack(prompts, rows), [len(row) for row in rows]
    before, after = scalars(scalar, batch, batch.predict_from).split(lengths), scalars(scalar, batch, batch.last)
    ends = end_tokens(model, tokenizer)
    sampling = Sampling(max_tokens=GREEDY, temperature=0.0, stop_tokens=ends)
    return {
        "prompts": prompts,
        "logprobs": _lists(target_logprobs(model, batch).split(lengths)),
        "greedy": [list(g.tokens) for g in generate(model, prompts, sampling, [0] * len(prompts))],
        "scores": [[*values, float(last)] for values, last in zip(_lists(before), after, strict=True)],
        "ends": set(ends),
    }


def _lists(rows: tuple[Tensor, ...]) -> list[list[float]]:
    return [row.tolist() for row in rows]


def run_reader(python: Path, script: str, root: Path) -> None:
    """A script of this folder over saved folders, in an environment of its own that sees nothing of this one."""
    done = subprocess.run(
        [str(python), str(Path(__file__).with_name(script)), str(root)],
        env={**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=3_500,
    )
    assert done.returncode == 0, done.stderr[-6_000:]


def assert_close(got: list[list[float]], want: list[list[float]], where: str) -> None:
    for ours, theirs in zip(want, got, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=CLOSE, err_msg=where)


def assert_same(read: dict[str, Any], said: dict[str, Any], where: str) -> None:
    """What transformers read is what Heedful says. Without a bias to hold it, the reward's constant is in the configuration."""
    assert read["prompts"] == said["prompts"], where
    assert read["greedy"] == said["greedy"], where
    assert_close(read["logprobs"], said["logprobs"], where)
    assert_close([[score + read["offset"] for score in row] for row in read["scores"]], said["scores"], where)
    ends = read["ends"]
    assert set(ends if isinstance(ends, list) else [ends]) == said["ends"], where


def assert_read_by_other_version(python: Path, root: Path, said: dict[str, dict[str, Any]]) -> None:
    """What another version of transformers reads in each folder is what Heedful says."""
    run_reader(python, "read_with_other_version.py", root)
    for name, ours in said.items():
        assert_same(json.loads((root / name / "read.json").read_text()), ours, name)
