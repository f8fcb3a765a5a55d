"""PPO episodes per second against TRL's last PPOTrainer, and what pretraining gradients add: ``python bench/ppo.py --help``.

With ``--model FOLDER --data FILES``: a model of yours on people's prompts, without pretraining gradients.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import _real_data
from _driver import ONE_STEP, Case, Contender, measure, options, show, trl
from _driver import write as write_result
from _workload import SIZES, examples, prompts, save_models, write

BATCH, MINIBATCHES, MAX_TOKENS = 64, 4, 64
PTX_EXAMPLES, PTX_TOKENS = 8, 128  # pretraining sequences for each episode (the paper's) and their length
PLAIN, WITH_PTX, SFT = "Heedful, plain", "Heedful, with ptx", "Heedful, the same text in sft"
STEPS = {"XS": 1, "S": 4, "M": 2}
"""Iterations of a run: what is done once (Heedful's self-check, 0.1 s) counts for little, as it does to a user."""
COMMON = {"gradient_checkpointing": False}
SETTINGS = {
    "default": {},
    "bf16 autocast": COMMON | {"autocast": True},
    "fp32": COMMON | {"bf16": False},
    "bf16 weights": COMMON | {"bf16": False, "weights": "bfloat16"},
    "bf16 weights, static cache": COMMON | {"bf16": False, "weights": "bfloat16", "cache": "static"},
}
_FEW = {"per_device_train_batch_size": 4, "local_rollout_forward_batch_size": 16}
REAL_SETTINGS = {label: SETTINGS[label] | _FEW for label in ("bf16 autocast", "bf16 weights", "bf16 weights, static cache")}
"""With a real vocabulary and people's prompts, TRL's default (64 sequences at once) needs more than 24 GiB."""


def main() -> None:
    chosen = options("ppo", more=_real_data.flags)
    found = real_cases(chosen) if chosen.model else cases(chosen)
    result = measure("ppo", "PPO against TRL's last PPOTrainer", found, chosen, alone=chosen.model is not None)
    result["extra"] = {}
    for case in result["cases"]:
        if case["label"] == "pretraining gradients":
            seconds = [case["contenders"][name]["seconds"] for name in (PLAIN, WITH_PTX, SFT)]
            shares = [(with_ptx - plain) / sft for plain, with_ptx, sft in zip(*seconds, strict=True)]
            result["extra"][f"{case['size']}: time that ptx adds over that of the same text in sft"] = median(shares)
    write_result(result, chosen.out)
    show(result, chosen.out)


def cases(chosen: Namespace) -> Iterator[Case]:
    for name in chosen.sizes:
        steps = STEPS[name] if not chosen.quick else 1
        ptx = 1 if chosen.quick else PTX_EXAMPLES
        prepare = partial(_prepare, partial(save_models, SIZES[name]), prompts(1_024), examples(8))
        shared = _shared(chosen, steps)
        yield plain_case(name, shared, prepare, chosen, SETTINGS)
        ours = partial(Contender, script="_worker_heedful.py", warm_up=ONE_STEP)
        ptx_fields = {"ptx_tokens": PTX_TOKENS}
        if name == "M":  # ptx adds 65,536 tokens to each iteration: measured on S
            continue
        sequences = ptx * BATCH // MINIBATCHES
        same_text = {"do": "ptx_sft", "steps": MINIBATCHES * steps}
        yield Case(
            size=name,
            label="pretraining gradients",
            unit="iterations/s",
            contenders=[
                ours(PLAIN, "heedful", request=shared | ptx_fields | {"ptx": 0}),
                ours(WITH_PTX, "", request=shared | ptx_fields | {"ptx": ptx}),
                ours(SFT, "", request=same_text | {"batch_size": sequences, "tokens": PTX_TOKENS}),
            ],
            prepare=prepare,
            work=lambda _, work=steps: work,
            ratios=False,
        )


def real_cases(chosen: Namespace) -> Iterator[Case]:
    """Plain PPO on people's prompts. Responses end where the model ends them."""
    data = _real_data.read(chosen)
    rows = _real_data.enough("prompts", data.prompts, 256)
    check = _real_data.enough("demonstrations", data.examples, 8)
    prepare = partial(_prepare, partial(_real_data.prepare_models, chosen.model), rows, check)
    yield plain_case(chosen.model.resolve().name, _shared(chosen, 1), prepare, chosen, REAL_SETTINGS)


def _shared(chosen: Namespace, steps: int) -> dict[str, Any]:
    """What both sides' requests have in common."""
    max_tokens = 16 if chosen.quick else MAX_TOKENS
    return {"do": "ppo", "steps": steps, "batch_size": BATCH, "minibatches": MINIBATCHES, "max_tokens": max_tokens}


def plain_case(
    name: str, shared: dict[str, Any], prepare: Callable[[Path], None], chosen: Namespace, settings: dict[str, dict[str, Any]]
) -> Case:
    requests = {label: shared | {"settings": own, "allocator": label != "default"} for label, own in settings.items()}
    ours = shared | {"ptx": 0, "ptx_tokens": PTX_TOKENS}
    contenders = [Contender("Heedful", "heedful", "_worker_heedful.py", ours, warm_up=ONE_STEP)]
    contenders += trl("TRL", requests, script="_worker_trl_ppo.py", environment="trl-ppo", chosen=chosen)
    return Case(
        size=name,
        label="plain",
        unit="episodes/s",
        contenders=contenders,
        prepare=prepare,
        work=lambda _: BATCH * shared["steps"],
        agree={"loss_before": 0.05, "score_before": 0.02},
    )


def _prepare(models: Callable[[Path], None], rows: list[list[int]], check: list[dict[str, list[int]]], folder: Path) -> None:
    models(folder)
    write(folder, prompts=rows, examples=check)


if __name__ == "__main__":
    main()
