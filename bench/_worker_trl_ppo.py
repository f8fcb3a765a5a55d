"""TRL's PPOTrainer, in the virtual environment of the last version that has it.

``python bench/_worker_trl_ppo.py FOLDER``. TRL's batch is ``per_device_train_batch_size * gradient_accumulation_steps``, and an
optimiser step is taken once in ``gradient_accumulation_steps`` micro-batches, whatever ``num_mini_batches`` says (TRL #5645).
So the same number of optimiser steps as ours needs an accumulation of 1.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from _worker import Timing, keep_large_temporaries, serve, with_padding_apart

# Not installed in the project's own environment, so imported by name.
datasets: Any = importlib.import_module("datasets")
transformers: Any = importlib.import_module("transformers")
ppo: Any = importlib.import_module("trl.experimental.ppo")
trainer_module: Any = importlib.import_module("trl.experimental.ppo.ppo_trainer")
experimental_utils: Any = importlib.import_module("trl.experimental.utils")

FOLDER = Path(sys.argv[1])
TOKENIZER: Any = with_padding_apart(transformers.AutoTokenizer.from_pretrained(FOLDER / "policy", padding_side="left"))


class IterationEnds(transformers.TrainerCallback):
    """Stamps the beginning and the end of each iteration and keeps its parts."""

    def __init__(self) -> None:
        self.timing: Timing
        self.rows: list[dict[str, float]] = [{}]
        self.steps = 0
        self.generated_at = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.timing.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.timing.end(state.global_step - 1)
        self.rows.append({})

    def add(self, part: str, seconds: float) -> None:
        self.rows[-1][part] = self.rows[-1].get(part, 0.0) + seconds


def run_ppo(
    steps: int,
    batch_size: int,
    minibatches: int,
    max_tokens: int,
    settings: dict[str, Any],
    allocator: bool,
) -> dict[str, Any]:
    """settings: fields of PPOConfig, and ``weights`` (type of all models'), ``cache`` (of the generation), ``autocast`` (bf16).

    The whole batch is on the device at once unless the settings have a smaller ``per_device_train_batch_size``; the optimiser's
    batch is the same.

    PPOTrainer creates its accelerator without the configuration's ``bf16``, which therefore has no effect; the accelerator does
    read this variable. Its own loop never switches gradient checkpointing on either. The answer says what a run really had.
    """
    if allocator:
        keep_large_temporaries()
    if settings.pop("autocast", False):
        os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"
    dtype = getattr(torch, settings.pop("weights", "float32"))
    cache = settings.pop("cache", None)
    device_batch = settings.pop("per_device_train_batch_size", batch_size)
    policy, reference = (transformers.AutoModelForCausalLM.from_pretrained(FOLDER / "policy", dtype=dtype) for _ in range(2))
    reward, value = (
        transformers.AutoModelForSequenceClassification.from_pretrained(FOLDER / "reward", num_labels=1, dtype=dtype)
        for _ in range(2)
    )
    check = _check(policy, reward)
    if cache:
        policy.generation_config.cache_implementation = cache
    rows = [{"input_ids": row} for row in json.loads((FOLDER / "prompts.json").read_text())]
    ends = IterationEnds()
    with tempfile.TemporaryDirectory() as folder:
        config = ppo.PPOConfig(
            output_dir=folder,
            use_cpu=True,
            total_episodes=batch_size * steps,
            per_device_train_batch_size=device_batch,
            gradient_accumulation_steps=batch_size // device_batch,
            num_mini_batches=minibatches,
            num_ppo_epochs=1,
            response_length=max_tokens,
            stop_token="eos",
            temperature=1.0,
            num_sample_generations=0,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **settings,
        )
        trainer = ppo.PPOTrainer(
            args=config,
            processing_class=TOKENIZER,
            model=policy,
            ref_model=reference,
            reward_model=reward,
            value_model=value,
            train_dataset=datasets.Dataset.from_list(rows),
            callbacks=[ends],
        )
        # It counts a batch's parts, not a minibatch's, and would make one optimiser step for all minibatches.
        trainer.accelerator.gradient_accumulation_steps = max(1, batch_size // minibatches // device_batch)
        lengths: list[int] = []
        generation = trainer_module.batch_generation

        def timed_generation(model: Any, queries: Any, *args: Any) -> Any:
            start = time.perf_counter()
            output = generation(model, queries, *args)
            ends.add("generation", time.perf_counter() - start)
            lengths.extend(_useful(row) for row in output[0][:, queries.shape[1] :].tolist())
            ends.generated_at = time.perf_counter()
            return output

        accumulate = trainer.accelerator.accumulate

        def timed_accumulate(*models: Any) -> Any:
            if "scoring" not in ends.rows[-1]:  # the first update of an iteration ends its scoring
                ends.add("scoring", time.perf_counter() - ends.generated_at)
            return accumulate(*models)

        trainer_module.batch_generation, trainer.accelerator.accumulate = timed_generation, timed_accumulate

        def count(*_: Any) -> None:
            ends.steps += 1

        counter = register_optimizer_step_post_hook(count)
        try:
            ends.timing = Timing()
            trainer.train()
        finally:
            counter.remove()
            trainer_module.batch_generation = generation
    result = ends.timing.result(steps)
    parts: dict[str, float] = {}
    for row in ends.rows[:steps]:
        for part, seconds in row.items():
            parts[part] = parts.get(part, 0.0) + seconds
    parts["rest"] = result["seconds"] - sum(parts.values())
    had = {"autocast": trainer.accelerator.mixed_precision, "checkpointing": bool(policy.is_activation_checkpointing)}
    return (
        result | check | had | {"parts": parts, "optimiser_steps": ends.steps, "response_tokens": sum(lengths) / len(lengths)}
    )


@torch.no_grad()
def _check(policy: Any, reward: Any) -> dict[str, float]:
    """Loss per response token and mean score of the same examples as the other side's, by TRL's own functions."""
    rows = json.loads((FOLDER / "examples.json").read_text())[:8]
    total, count, scores = 0.0, 0, 0.0
    for row in rows:
        tokens, context = torch.tensor([row["prompt"] + row["response"]]), len(row["prompt"])
        logits = trainer_module.forward(policy, tokens, PADDING).logits[:, context - 1 : -1]
        total -= float(trainer_module.selective_log_softmax(logits, tokens[:, context:]).sum())
        count += len(row["response"])
        scores += float(experimental_utils.get_reward(reward, tokens, PADDING, context)[1])
    return {"loss_before": total / count, "score_before": scores / len(rows)}


def _useful(row: list[int]) -> int:
    end = TOKENIZER.eos_token_id
    return row.index(end) + 1 if end in row else len(row)


PADDING = TOKENIZER.pad_token_id

if __name__ == "__main__":
    serve({"ppo": run_ppo})
