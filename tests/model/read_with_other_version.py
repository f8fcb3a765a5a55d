"""Run by another version of transformers: what plain transformers reads of saved models, to be compared. Imports no Heedful.

``python read_with_other_version.py FOLDER`` reads each folder there: ``given.json`` says what to ask, it writes ``read.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, GenerationConfig


def read(folder: Path) -> dict[str, Any]:
    """The logits of ``tokens``, the tokens of ``text``, and what whoever uses the tokenizer and ``generate`` gets to know."""
    given = json.loads((folder / "given.json").read_text())
    model: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    found = {
        "logits": _logits(model, given["tokens"]).tolist(),
        "ids": tokenizer(given["text"])["input_ids"],
        "special": sorted(tokenizer.all_special_tokens),
        "ends": GenerationConfig.from_pretrained(folder).eos_token_id,
    }
    return found | _read_answers(folder, model, tokenizer, given.get("answers", []))


def _read_answers(folder: Path, model: Any, tokenizer: Any, answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each prompt with its answer: the prompt's tokens, log-probs of the answer, greedy text, scores after each token."""
    if not answers:
        return {}
    scalar: Any = AutoModelForSequenceClassification.from_pretrained(
        folder / "reward_model", attn_implementation="eager"
    ).eval()
    scoring: Any = AutoTokenizer.from_pretrained(folder / "reward_model")
    found: dict[str, Any] = {"prompts": [], "logprobs": [], "greedy": [], "scores": []}
    for answer in answers:
        prompt, tokens = answer["prompt"], answer["tokens"]
        texts = [_prompt_ids(one, answer) for one in (tokenizer, scoring)]
        assert texts[0] == texts[1]
        found["prompts"].append(texts[0])
        logprobs = _logits(model, prompt + tokens)[0, len(prompt) - 1 : -1].float().log_softmax(-1)
        found["logprobs"].append(logprobs.gather(-1, torch.tensor(tokens)[:, None])[:, 0].tolist())
        ids = torch.tensor([prompt])
        text = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=answer["greedy"])
        found["greedy"].append(text[0, len(prompt) :].tolist())
        with torch.no_grad():
            cut = [scalar(input_ids=torch.tensor([prompt + tokens[:n]])).logits for n in range(len(tokens) + 1)]
        assert cut[0].shape == (1, 1)
        found["scores"].append([float(score) for score in cut])
    return found | {"offset": getattr(scalar.config, "heedful_reward_offset", 0.0), "scalar": type(scalar).__name__}


def _prompt_ids(tokenizer: Any, answer: dict[str, Any]) -> list[int]:
    if "messages" not in answer:
        return tokenizer(answer["text"])["input_ids"]
    return tokenizer.apply_chat_template(answer["messages"], add_generation_prompt=True, return_dict=False)


def _logits(model: Any, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens]), use_cache=False).logits


if __name__ == "__main__":
    for path in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir()):
        (path / "read.json").write_text(json.dumps(read(path)))
