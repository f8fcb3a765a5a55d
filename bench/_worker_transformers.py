"""``transformers.generate`` on a plain transformers model, in Heedful's own environment but in a process without Heedful.

``python bench/_worker_transformers.py FOLDER``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, CompileConfig, GenerationConfig

from _worker import Timing, keep_large_temporaries, serve

FOLDER = Path(sys.argv[1])
TOKENIZER: Any = AutoTokenizer.from_pretrained(FOLDER / "policy")
END = TOKENIZER.eos_token_id
PADDING = END if TOKENIZER.pad_token_id is None else TOKENIZER.pad_token_id


def run_generation(
    batch_size: int,
    max_tokens: int,
    stop: bool,
    seed: int,
    count: int,
    settings: dict[str, Any],
    allocator: bool,
) -> dict[str, Any]:
    """settings: ``dtype``; ``cache`` ("static"); ``compile``; ``sort`` prompts by length; ``pad_to``: prompt length for all."""
    if allocator:
        keep_large_temporaries()
    rows = json.loads((FOLDER / "prompts.json").read_text())[:count]
    model: Any = AutoModelForCausalLM.from_pretrained(FOLDER / "policy", dtype=getattr(torch, settings.get("dtype", "float32")))
    model.eval()
    model.generation_config = GenerationConfig(pad_token_id=PADDING, eos_token_id=END if stop else None)
    extra: dict[str, Any] = {}
    if settings.get("cache"):
        extra["cache_implementation"] = settings["cache"]
    if settings.get("compile"):
        extra["compile_config"] = CompileConfig(mode="default", fullgraph=False)
        # Otherwise transformers compiles only on accelerators.
        setattr(extra["compile_config"], "_compile_all_devices", True)  # noqa: B010
    order = sorted(range(len(rows)), key=lambda i: len(rows[i])) if settings.get("sort") else range(len(rows))
    if not settings.get("compile"):
        model.generation_config.disable_compile = True
    batches = [list(order)[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    torch.manual_seed(seed)
    lengths: list[int] = []
    timing = Timing()
    timing.begin()
    for batch in batches:
        ids, mask = _padded([rows[i] for i in batch], settings.get("pad_to", 0))
        output = model.generate(
            ids, attention_mask=mask, do_sample=True, top_k=0, temperature=1.0, max_new_tokens=max_tokens, **extra
        )
        lengths += [_useful(row, stop) for row in output[:, ids.shape[1] :].tolist()]
    timing.end(0)
    result = timing.result(1)
    if not stop:
        # transformers 5 would take the number type of the file.
        plain: Any = AutoModelForCausalLM.from_pretrained(FOLDER / "policy", dtype=torch.float32).eval()
        plain.generation_config = GenerationConfig(pad_token_id=PADDING, eos_token_id=None)
        ids, mask = _padded(rows[:4], 0)
        options = {"do_sample": False, "max_new_tokens": 16, "return_dict_in_generate": True, "output_logits": True}
        output = plain.generate(ids, attention_mask=mask, **options)
        greedy = output.sequences[:, ids.shape[1] :]
        logprobs = torch.stack(output.logits, dim=1).log_softmax(-1).gather(-1, greedy[..., None])
        result["greedy"] = greedy.tolist()
        result["greedy_logprob"] = float(logprobs.mean())
    return result | {"lengths": lengths}


def _padded(rows: list[list[int]], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(length, *(len(row) for row in rows))
    ids = torch.tensor([[PADDING] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def _useful(row: list[int], stop: bool) -> int:
    return row.index(END) + 1 if stop and END in row else len(row)


if __name__ == "__main__":
    serve({"generation": run_generation})
