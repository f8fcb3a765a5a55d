"""TRL's SFTTrainer and RewardTrainer (newest version), in their own virtual environment.

``python bench/_worker_trl.py FOLDER``. A request's ``settings`` are fields of SFTConfig or RewardConfig; without any,
everything is TRL's default except the optimiser batch, the optimiser's numbers, and saving and reporting, which are off.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from _worker import Timing, keep_large_temporaries, serve, with_padding_apart

# Not installed in the project's own environment, so imported by name.
datasets: Any = importlib.import_module("datasets")
transformers: Any = importlib.import_module("transformers")
trl: Any = importlib.import_module("trl")

FOLDER = Path(sys.argv[1])
TOKENIZER = with_padding_apart(transformers.AutoTokenizer.from_pretrained(FOLDER / "policy"))


# The same as the other side's, and constant on both: after the same steps the losses should be close.
LEARNING_RATES = {trl.SFTTrainer: 1e-4, trl.RewardTrainer: 1e-5}


class StepEnds(transformers.TrainerCallback):
    """Stamps the beginning of the epoch and the end of each optimiser step."""

    timing: Timing

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.timing.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.timing.end(state.global_step - 1)


def run_sft(steps: int, batch_size: int, settings: dict[str, Any], allocator: bool) -> dict[str, Any]:
    rows, check = (
        [
            {
                "input_ids": row["prompt"] + row["response"],
                "completion_mask": [0] * len(row["prompt"]) + [1] * len(row["response"]),
            }
            for row in _read(name)
        ]
        for name in ("examples", "check")
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(FOLDER / "policy", dtype="float32")
    settings = {"completion_only_loss": True, **settings}
    return _train(trl.SFTTrainer, trl.SFTConfig, model, rows, check, steps, batch_size, settings, allocator)


def run_reward(steps: int, batch_size: int, settings: dict[str, Any], allocator: bool) -> dict[str, Any]:
    """batch_size: pairs in one optimiser step."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(FOLDER / "reward", num_labels=1)
    model.config.pad_token_id = TOKENIZER.pad_token_id
    rows, check = _read("pairs"), _read("check_pairs")
    return _train(trl.RewardTrainer, trl.RewardConfig, model, rows, check, steps, batch_size, settings, allocator)


def _read(name: str) -> list[dict[str, Any]]:
    return json.loads((FOLDER / f"{name}.json").read_text())


def _train(
    trainer_class: Any,
    config_class: Any,
    model: Any,
    rows: list[dict[str, Any]],
    check: list[dict[str, Any]],
    steps: int,
    batch_size: int,
    settings: dict[str, Any],
    allocator: bool,
) -> dict[str, Any]:
    """``steps`` optimiser steps over ``rows``; the loss on ``check`` before and after."""
    if allocator:
        keep_large_temporaries()
    rows = rows[: steps * batch_size]
    # TRL's own batch per device (8) unless the settings say otherwise, accumulated to the optimiser batch.
    device_batch = min(batch_size, settings.pop("per_device_train_batch_size", 8))
    device_batch = next(n for n in range(device_batch, 0, -1) if batch_size % n == 0)
    ends = StepEnds()
    with tempfile.TemporaryDirectory() as folder:
        config = config_class(
            output_dir=folder,
            use_cpu=True,
            num_train_epochs=1,
            max_steps=steps,
            per_device_train_batch_size=device_batch,
            gradient_accumulation_steps=batch_size // device_batch,
            per_device_eval_batch_size=len(check),
            learning_rate=LEARNING_RATES[trainer_class],
            lr_scheduler_type="constant",
            adam_beta2=0.95,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **settings,
        )
        train_dataset, check_dataset = (
            datasets.Dataset.from_list([row | {"length": _length(row)} for row in part]) for part in (rows, check)
        )
        trainer = trainer_class(
            model=model,
            args=config,
            train_dataset=train_dataset,
            eval_dataset=check_dataset,
            processing_class=TOKENIZER,
            callbacks=[ends],
        )
        before = trainer.evaluate()["eval_loss"]
        ends.timing = Timing()
        trainer.train()
        result = ends.timing.result(steps)
        after = _loss_in_fp32(trainer, Path(folder) / "trained", check_dataset, settings)
    return result | {"loss_before": before, "loss_after": after, "device_batch": device_batch}


def _loss_in_fp32(trainer: Any, folder: Path, check: Any, settings: dict[str, Any]) -> float:
    """The loss of the trained fp32 weights, as the other side measures it.

    The trainer's own evaluation casts them to bf16. There a single small step hardly shows, because it is smaller than the
    rounding of most weights. A second trainer changes the precision of the first, so it begins after the training.
    """
    trainer.model.save_pretrained(folder)
    model = type(trainer.model).from_pretrained(folder, dtype="float32")
    how = {name: settings[name] for name in ("completion_only_loss",) if name in settings}
    config = type(trainer.args)(
        output_dir=str(folder), use_cpu=True, bf16=False, per_device_eval_batch_size=len(check), report_to="none", **how
    )
    judge = type(trainer)(model=model, args=config, train_dataset=check, processing_class=TOKENIZER)
    return judge.evaluate(judge.train_dataset)["eval_loss"]


def _length(row: dict[str, Any]) -> int:
    """What length grouping sorts by: a pair's padded length is that of its longer sequence."""
    return max(len(row[name]) for name in ("input_ids", "chosen_ids", "rejected_ids") if name in row)


if __name__ == "__main__":
    serve({"sft": run_sft, "reward": run_reward})
