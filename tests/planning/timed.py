"""``python -m tests.planning.timed`` prints this machine's measured speed and the processor time of SFT and PPO.

The runs are those of :mod:`tests.planning.measured`. Each step runs once before it is timed, so that compilation and first
touches do not count.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import torch
from tests.planning import measured
from transformers import GPT2LMHeadModel

from heedful.model.attention import use_heedful_attention
from heedful.model.fast.allocator import keep_large_temporaries
from heedful.planning.cpu_speed import measured_speed
from heedful.planning.shapes import shape_of_config


def seconds(step: str, folder: Path) -> float:
    run, config = measured.STEPS[step]
    start = 0.0
    for name in ("first", "timed"):
        torch.manual_seed(0)
        model = use_heedful_attention(GPT2LMHeadModel(measured.CONFIG))
        start = time.process_time()
        run(model, config, folder / f"{step}-{name}")
    return time.process_time() - start


def main() -> None:
    keep_large_temporaries()
    torch.set_num_threads(1)
    speed = measured_speed(shape_of_config("measured", measured.CONFIG), "bfloat16", clock=time.process_time)
    with tempfile.TemporaryDirectory() as folder:
        took = {f"{step}_seconds": seconds(step, Path(folder)) for step in ("sft", "ppo")}
    print(json.dumps({"flops": speed.flops, "bandwidth": speed.bandwidth, **took}))


if __name__ == "__main__":
    main()
