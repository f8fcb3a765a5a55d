"""Generated tokens per second against ``transformers.generate``: ``python bench/generation.py --help``.

With ``--model FOLDER``: a model of yours (a folder in Hugging Face format) instead of the random GPT-2 sizes, and also against
vLLM and llama.cpp where their environments are made (``python bench/_setup.py vllm llama``).
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from _driver import Answer, Case, Contender, measure, options, show
from _gguf import make_gguf
from _setup import is_ready, python_of
from _workload import PROMPT_TOKENS, SIZES, Size, generation_flop, prompts, save_models, size_of, write

BATCHES = (8, 64, 256)
MODEL_BATCHES = (1, 8, 32, 64)
MODEL_PROMPT_TOKENS = (32, 64)
MODEL_FIRST_TOKEN = 1_000
"""Prompts of a model of yours are random tokens from this one on: those before are control tokens and single bytes."""
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
MODEL_BEST = BEST | {"bf16": {"dtype": "bfloat16"}}
"""One whole batch at once: to sort its prompts gains nothing, and is left out below."""
VLLM = {
    "vLLM eager, unbound": {"eager": True, "bind": "nobind"},
    "vLLM compiled, unbound": {"eager": False, "bind": "nobind"},
    "vLLM compiled, bound": {"eager": False, "bind": ""},
}
"""vLLM's own choice (auto) leaves one of two cores to its scheduler; "bound" is all cores, "" until their number is known."""
LLAMA = {f"llama.cpp {number_type}": {"type": number_type} for number_type in ("bf16", "f16")}
QUICK_BEST = {name: BEST[name] for name in ("bf16, sorted", "bf16, static cache")}


def main() -> None:
    chosen = options("generation", more=_flags)
    best = QUICK_BEST if chosen.quick else BEST
    if chosen.model is not None:
        best = {name: settings for name, settings in (best | MODEL_BEST).items() if not settings.get("sort")}
        requests = tuple(map(int, chosen.requests.split(",")))
        found = model_cases(chosen, chosen.model.resolve(), requests, chosen.tokens, best)
    else:
        found = cases(chosen, (8,) if chosen.quick else BATCHES, MAX_TOKENS, best)
    title = "Generation against other engines" if chosen.model is not None else "Generation against transformers.generate"
    result = measure("generation", title, found, chosen, one_folder=chosen.model is not None)
    show(result, chosen.out)


def _flags(parser: ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, default=None, help="folder of a model, instead of the sizes")
    parser.add_argument("--requests", default=",".join(map(str, MODEL_BATCHES)), help="requests at once, with --model")
    parser.add_argument("--only", nargs="+", default=("",), help="only contenders whose names begin so, with --model")
    parser.add_argument("--tokens", type=int, default=MAX_TOKENS, help="new tokens of a request, with --model")


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
                yield Case(
                    size=name,
                    label=f"batch {batch_size}, {'random stops' if stop else f'{max_tokens} tokens'}",
                    unit="new tokens/s",
                    contenders=_contenders(request, best, warm_up),
                    prepare=partial(_prepare, SIZES[name], rows),
                    work=_new_tokens,
                    flop=partial(_flop, SIZES[name], [len(row) for row in rows]),
                    agree={} if stop else {"greedy": 0.0, "greedy_logprob": 1e-3},
                )


def model_cases(
    chosen: Namespace, folder: Path, batches: tuple[int, ...], max_tokens: int, best: dict[str, dict[str, Any]]
) -> Iterator[Case]:
    """A whole batch of requests at once, for each size of batch; four single requests, one after the other."""
    config = json.loads((folder / "config.json").read_text())
    padded = {
        label: settings | {"pad_to": MODEL_PROMPT_TOKENS[1]} if "pad_to" in settings else settings
        for label, settings in best.items()
    }
    rows = model_prompts(config["vocab_size"], max(4, *batches))
    for batch_size in batches:
        request = {"do": "generation", "batch_size": batch_size, "max_tokens": max_tokens, "stop": False, "seed": 1}
        request |= {"count": max(4, batch_size)}
        every = _contenders(request, padded, {}) + _other_engines(request, chosen.threads)
        contenders = [contender for contender in every if contender.name.startswith(tuple(chosen.only))]
        yield Case(
            size=folder.name,
            label=f"{batch_size} requests, {max_tokens} tokens",
            unit="new tokens/s",
            contenders=contenders[: 1 if chosen.only_ours else None],
            prepare=partial(_prepare_model, folder, rows, not chosen.only_ours),
            work=_new_tokens,
            flop=partial(_model_flop, config, [len(row) for row in rows[: request["count"]]]),
            agree={"greedy": 0.0, "greedy_logprob": 1e-3},
        )


def _other_engines(request: dict[str, Any], threads: int) -> list[Contender]:
    """vLLM and llama.cpp, each in its own environment; those that are not made are named."""
    found: list[Contender] = []
    for environment, script, tried in (("vllm", "_worker_vllm.py", VLLM), ("llama", "_worker_llama.py", LLAMA)):
        if not is_ready(environment):
            print(f"bench: without {environment}: first run `python bench/_setup.py {environment}`", file=sys.stderr)
            continue
        for name, settings in tried.items():
            if "bind" in settings:
                settings = settings | {"bind": settings["bind"] or f"0-{threads - 1}"}
            # Each engine computes the greedy text, which all must have in common, with one of its settings.
            asked = request | {"settings": settings, "check": name in ("vLLM eager, unbound", "llama.cpp bf16")}
            group = "llama.cpp" if environment == "llama" else name.partition(",")[0]
            found.append(Contender(name, "best", script, asked, python_of(environment), group=group))
    return found


def model_prompts(vocabulary: int, count: int, *, seed: int = 5) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    low, high = MODEL_PROMPT_TOKENS
    return [rng.integers(MODEL_FIRST_TOKEN, vocabulary, rng.integers(low, high + 1)).tolist() for _ in range(count)]


def _model_flop(config: dict[str, Any], prompt_lengths: list[int], answer: Answer) -> float:
    mean = round(sum(prompt_lengths) / len(prompt_lengths))
    return generation_flop(size_of(config), [(mean, new) for new in answer["lengths"]])


def _prepare_model(source: Path, rows: list[list[int]], others: bool, folder: Path) -> None:
    (folder / "policy").symlink_to(source, target_is_directory=True)
    write(folder, prompts=rows)
    if others and is_ready("llama"):
        for number_type in ("bf16", "f16", "f32"):
            make_gguf(source, folder / f"model-{number_type}.gguf", number_type)


def _contenders(request: dict[str, Any], best: dict[str, dict[str, Any]], warm_up: dict[str, Any]) -> list[Contender]:
    other = {"default": request | {"settings": {}, "allocator": False}} | {
        label: request | {"settings": settings, "allocator": True} for label, settings in best.items()
    }
    return [Contender("Heedful", "heedful", "_worker_heedful_generation.py", request, warm_up=warm_up)] + [
        Contender(
            f"transformers {label}",
            "default" if label == "default" else "best",
            "_worker_transformers.py",
            settings,
            warm_up=warm_up,
            group="transformers",
        )
        for label, settings in other.items()
    ]


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
