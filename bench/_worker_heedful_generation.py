"""Heedful's side of generation, in a process without its training loops.

``python bench/_worker_heedful_generation.py FOLDER``: FOLDER holds the model and the prompts (see ``_workload``).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from _worker import Timing, serve
from heedful.model import Engine, Sampling, generate, load_causal_model
from heedful.model.engine.sampling import request_seeds
from heedful.model.engine.scheduler import generate_with
from heedful.model.fast.allocator import keep_large_temporaries
from heedful.model.inference import first_device
from heedful.model.precision import frozen

FOLDER = Path(sys.argv[1])
TOKENIZER = AutoTokenizer.from_pretrained(FOLDER / "policy")


def run_generation(batch_size: int, max_tokens: int, stop: bool, seed: int, count: int) -> dict[str, Any]:
    rows = json.loads((FOLDER / "prompts.json").read_text())[:count]
    model = frozen(load_causal_model(FOLDER / "policy", "bfloat16").to(first_device()), "bfloat16")  # pyright: ignore[reportArgumentType]
    sampling = Sampling(max_tokens=max_tokens, stop_tokens=(TOKENIZER.eos_token_id,) if stop else ())
    seeds = request_seeds(seed, stream="bench", count=len(rows))
    begun = time.perf_counter()
    engine = Engine(model, slots=batch_size)  # it packs the weights, which is part of loading them
    packing = time.perf_counter() - begun
    timing = Timing()
    timing.begin()
    generations = generate_with(engine, rows, sampling, seeds)
    timing.end(0)
    lengths = [len(g.tokens) for g in generations]
    result = timing.result(1) | {"engine_made_in_seconds": packing}
    if not stop:  # the same work: greedy text of the first prompts in fp32, compared with the other side's
        whole = load_causal_model(FOLDER / "policy").to(first_device())  # pyright: ignore[reportArgumentType]
        exact = generate(whole, rows[:4], Sampling(max_tokens=16, temperature=0.0), [0] * 4)
        result["greedy"] = [g.tokens for g in exact]
        result["greedy_logprob"] = sum(sum(g.logprobs) for g in exact) / (4 * 16)
    return result | {"lengths": lengths}


if __name__ == "__main__":
    keep_large_temporaries()  # as `heedful align` does
    serve({"generation": run_generation})
