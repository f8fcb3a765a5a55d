"""Run by a Python that has TRL: what its trainers make of a saved policy and reward model. Imports no Heedful.

``python read_with_trl.py FOLDER`` reads each folder there: ``given.json`` says what to ask, it writes ``trl.json``.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

trl: Any = importlib.import_module("trl")
Dataset: Any = importlib.import_module("datasets").Dataset


def read(folder: Path) -> dict[str, Any]:
    """What SFTTrainer, GRPOTrainer (with the reward model) and RewardTrainer load and compute; each also makes one step."""
    answers = json.loads((folder / "given.json").read_text())["answers"]
    rows = [_row(answer) for answer in answers]
    return _sft(folder, answers, rows) | _grpo(folder, answers, rows) | _reward(folder / "reward_model", answers, rows)


def _row(answer: dict[str, Any]) -> dict[str, Any]:
    if "messages" in answer:
        return {"prompt": answer["messages"], "completion": [{"role": "assistant", "content": answer["said"]}]}
    return {"prompt": answer["text"], "completion": answer["said"]}


def _options(**more: Any) -> dict[str, Any]:
    common = {"output_dir": tempfile.mkdtemp(), "max_steps": 1, "report_to": "none", "use_cpu": True, "bf16": False}
    return {**common, "gradient_checkpointing": False, "save_strategy": "no", "disable_tqdm": True, **more}


def _sft(folder: Path, answers: list[dict[str, Any]], rows: list[dict[str, Any]]) -> dict[str, Any]:
    trainer = trl.SFTTrainer(str(folder), args=trl.SFTConfig(**_options()), train_dataset=Dataset.from_list(rows))
    tokens = [list(row["input_ids"]) for row in trainer.train_dataset]
    logprobs = []
    for answer in answers:
        with torch.no_grad():
            logits = trainer.model.eval()(input_ids=torch.tensor([answer["prompt"] + answer["tokens"]])).logits
        rest = logits[0, len(answer["prompt"]) - 1 : -1].float().log_softmax(-1)
        logprobs.append(rest.gather(-1, torch.tensor(answer["tokens"])[:, None])[:, 0].tolist())
    trainer.train()
    return {"tokens": tokens, "logprobs": logprobs}


def _grpo(folder: Path, answers: list[dict[str, Any]], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rewards that GRPO gives to the answers: by the folder alone, and by the function of docs/releasing.md.

    ``scored``: the tokens of GRPO's own text of each answer, at whose last one it reads the folder's reward.
    """
    trainer = trl.GRPOTrainer(
        str(folder),
        reward_funcs=[str(folder / "reward_model"), _reward_at_the_end(folder / "reward_model")],
        args=trl.GRPOConfig(**_options(num_generations=2, per_device_train_batch_size=2, max_completion_length=4)),
        train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in rows]),
    )
    scored: list[list[int]] = []
    hook = trainer.reward_funcs[0].register_forward_pre_hook(
        lambda _, __, given: scored.extend(_unpadded(given)), with_kwargs=True
    )
    prompts, completions = ([row[name] for row in rows] for name in ("prompt", "completion"))
    tokens = [answer["tokens"] for answer in answers]
    rewards = trainer._calculate_rewards([{"prompt": prompt} for prompt in prompts], prompts, completions, tokens)
    hook.remove()
    trainer.train()
    by_folder, by_function = rewards.T.tolist()
    return {"by_folder": by_folder, "by_function": by_function, "scored": scored}


def _reward_at_the_end(folder: Path) -> Callable[..., list[float]]:
    reward_model: Any = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def reward(prompts: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
        scores: list[float] = []
        for prompt, answer in zip(prompts, completion_ids, strict=True):
            if isinstance(prompt, str):
                before = tokenizer(prompt)["input_ids"]
            else:
                before = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
            with torch.no_grad():
                scores.append(float(reward_model(input_ids=torch.tensor([[*before, *answer]])).logits))
        return scores

    return reward


def _unpadded(given: dict[str, Any]) -> list[list[int]]:
    return [ids[mask.bool()].tolist() for ids, mask in zip(given["input_ids"], given["attention_mask"], strict=True)]


def _reward(folder: Path, answers: list[dict[str, Any]], rows: list[dict[str, Any]]) -> dict[str, Any]:
    pairs = [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": other["completion"]}
        for row, other in zip(rows, rows[1:] + rows[:1], strict=True)
    ]
    trainer = trl.RewardTrainer(str(folder), args=trl.RewardConfig(**_options()), train_dataset=Dataset.from_list(pairs))
    with torch.no_grad():
        given = [torch.tensor([answer["prompt"] + answer["tokens"]]) for answer in answers]
        scores = [float(trainer.model.eval()(input_ids=row, attention_mask=torch.ones_like(row)).logits) for row in given]
    trainer.train()
    return {"scores": scores}


if __name__ == "__main__":
    for path in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir()):
        (path / "trl.json").write_text(json.dumps(read(path)))
