"""Generated tokens per second against ``transformers.generate``: ``python bench/generation.py --help``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from _driver import Answer, Case, Contender, measure, options, show
from _workload import PROMPT_TOKENS, SIZES, Size, generation_flop, prompts, save_models, write

BATCHES = (8, 64, 256)
MAX_TOKENS = 64
PROMPTS = {"XS": 256, "S": 256, "M": 64}
"""Prompts per run, or one batch if that is more. Over several batches lengths even out, and requests join as others leave."""
BEST = {
    "bf16, sorted": {"dtype": "bfloat16", "sort": True},
    "bf16, static cache": {"dtype": "bfloat16", "cache": "static", "pad_to": PROMPT_TOKENS[1]},
    "bf16, static cache, compiled": {"dtype": "bfloat16", "cache": "static", "compile": True, "pad_to": PROMPT_TOKENS[1]},
    "fp32, sorted": {"dtype": "float32", "sort": True},
}
"""Compiled code needs one shape: all prompts are padded to the longest possible, and the static cache has that length too."""
QUICK_BEST = {name: BEST[name] for name in ("bf16, sorted", "bf16, static cache")}


def main() -> None:
    chosen = options("generation")
    batches = (8,) if chosen.quick else BATCHES
    best = QUICK_BEST if chosen.quick else BEST
    result = measure("generation", "Generation against transformers.generate", cases(chosen, batches, MAX_TOKENS, best), chosen)
    show(result, chosen.out)


def cases(
    chosen: Namespace,
    batches: tuple[int, ...],
    max_tokens: int,
    best: dict[str, dict[str, Any]] = BEST,
    stops: tuple[bool, ...] = (False, True),
) -> Iterator[Case]:
    for name in chosen.sizes:
        for batch_size in batches:
            for stop in stops:
                rows = prompts(16 if chosen.quick else max(PROMPTS[name], batch_size))
                request = {"do": "generation", "batch_size": batch_size, "max_tokens": max_tokens, "stop": stop, "seed": 1}
                request |= {"count": len(rows)}
                # Compiled code may be compiled again at its second batch.
                warm_up = {"count": min(2 * batch_size, len(rows))}
                other = {"default": request | {"settings": {}, "allocator": False}} | {
                    label: request | {"settings": settings, "allocator": True} for label, settings in best.items()
                }
                contenders = [Contender("Heedful", "heedful", "_worker_heedful_generation.py", request, warm_up=warm_up)]
                contenders += [
                    Contender(
                        f"transformers {label}",
                        "default" if label == "default" else "best",
                        "_worker_transformers.py",
                        settings,
                        warm_up=warm_up,
                    )
                    for label, settings in other.items()
                ]
                yield Case(
                    size=name,
                    label=f"batch {batch_size}, {'random stops' if stop else f'{max_tokens} tokens'}",
                    unit="new tokens/s",
                    contenders=contenders,
                    prepare=partial(_prepare, SIZES[name], rows),
                    work=_new_tokens,
                    flop=partial(_flop, SIZES[name], [len(row) for row in rows]),
                    agree={} if stop else {"greedy": 0.0, "greedy_logprob": 1e-3},
                )


def _new_tokens(answer: Answer) -> float:
    return float(sum(answer["lengths"]))


def _flop(size: Size, prompt_lengths: list[int], answer: Answer) -> float:
    # Each side may process the prompts in its own order: their mean length is used for each, which changes little.
    mean = round(sum(prompt_lengths) / len(prompt_lengths))
    return generation_flop(size, [(mean, new) for new in answer["lengths"]])


def _prepare(size: Size, rows: list[list[int]], folder: Path) -> None:
    save_models(size, folder)
    write(folder, prompts=rows)


if __name__ == "__main__":
    main()
