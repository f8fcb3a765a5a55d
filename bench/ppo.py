"""PPO episodes per second against TRL's last PPOTrainer, and what pretraining gradients add: ``python bench/ppo.py --help``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median

from _driver import ONE_STEP, Case, Contender, measure, options, show, trl
from _driver import write as write_result
from _workload import SIZES, Size, examples, prompts, save_models, write

BATCH, MINIBATCHES, MAX_TOKENS = 64, 4, 64
PTX_EXAMPLES, PTX_TOKENS = 8, 128  # pretraining sequences for each episode (the paper's) and their length
PLAIN, WITH_PTX, SFT = "Heedful, plain", "Heedful, with ptx", "Heedful, the same text in sft"
STEPS = {"XS": 1, "S": 4, "M": 2}
"""Iterations of a run: what is done once (Heedful's self-check, 0.1 s) counts for little, as it does to a user."""
COMMON = {"gradient_checkpointing": False}
BEST = {
    "bf16 autocast": COMMON | {"autocast": True},
    "fp32": COMMON | {"bf16": False},
    "bf16 weights": COMMON | {"bf16": False, "weights": "bfloat16"},
    "bf16 weights, static cache": COMMON | {"bf16": False, "weights": "bfloat16", "cache": "static"},
}


def main() -> None:
    chosen = options("ppo")
    result = measure("ppo", "PPO against TRL's last PPOTrainer", cases(chosen), chosen)
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
        max_tokens, ptx = (16, 1) if chosen.quick else (MAX_TOKENS, PTX_EXAMPLES)
        shared = {"do": "ppo", "steps": steps, "batch_size": BATCH, "minibatches": MINIBATCHES}
        shared |= {"max_tokens": max_tokens}
        requests = {"default": shared | {"settings": {}, "allocator": False}} | {
            label: shared | {"settings": settings, "allocator": True} for label, settings in BEST.items()
        }
        ours = partial(Contender, script="_worker_heedful.py", warm_up=ONE_STEP)
        ptx_fields = {"ptx_tokens": PTX_TOKENS}
        contenders = [ours("Heedful", "heedful", request=shared | ptx_fields | {"ptx": 0})]
        contenders += trl("TRL", requests, script="_worker_trl_ppo.py", environment="trl-ppo", chosen=chosen)
        prepare = partial(_prepare, SIZES[name])
        yield Case(
            size=name,
            label="plain",
            unit="episodes/s",
            contenders=contenders,
            prepare=prepare,
            work=lambda _, work=BATCH * steps: work,
            agree={"loss_before": 0.05, "score_before": 0.02},
        )
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


def _prepare(size: Size, folder: Path) -> None:
    save_models(size, folder)
    write(folder, prompts=prompts(1_024), examples=examples(8))


if __name__ == "__main__":
    main()
