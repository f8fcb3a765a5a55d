"""llama.cpp through its own C functions (llama-cpp-python), in its own virtual environment.

``python bench/_worker_llama.py FOLDER``: FOLDER holds model-TYPE.gguf and the prompts. A request's ``settings``: ``type`` of
the weights (bf16, f16 or f32). All requests of a batch are decoded together, as llama.cpp's example "batched" does it.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from _worker import Timing, serve

# Not installed in the project's own environment, so imported by name.
llama: Any = importlib.import_module("llama_cpp")

FOLDER = Path(sys.argv[1])
PROMPTS_AT_ONCE = 512
models: dict[str, Any] = {}


def run_generation(
    batch_size: int, max_tokens: int, stop: bool, seed: int, count: int, settings: dict[str, Any], check: bool = False
) -> dict[str, Any]:
    """check: also compute greedy text with weights in float32."""
    if stop:
        raise ValueError("this contender has no end of text")
    rows = json.loads((FOLDER / "prompts.json").read_text())[:count]
    model = _model(settings["type"])
    timing = Timing()
    timing.begin()
    lengths: list[int] = []
    for i in range(0, len(rows), batch_size):
        lengths += [len(tokens) for tokens, _ in _generate(model, rows[i : i + batch_size], max_tokens, seed)]
    timing.end(0)
    result = timing.result(1) | {"lengths": lengths}
    if check:
        texts = _generate(_model("f32"), rows[:4], 16, None)
        result["greedy"] = [tokens for tokens, _ in texts]
        result["greedy_logprob"] = sum(sum(logprobs) for _, logprobs in texts) / (4 * 16)
    return result


def _model(number_type: str) -> Any:
    if number_type not in models:
        llama.llama_backend_init()
        file = str(FOLDER / f"model-{number_type}.gguf").encode()
        models[number_type] = llama.llama_model_load_from_file(file, llama.llama_model_default_params())
        if not models[number_type]:
            raise RuntimeError(f"llama.cpp cannot read model-{number_type}.gguf")
    return models[number_type]


def _generate(model: Any, rows: list[list[int]], max_tokens: int, seed: int | None) -> list[tuple[list[int], list[float]]]:
    """Sampled at temperature 1 with a seed; without one, the most likely tokens, with their log-probabilities."""
    context = _context(model, len(rows), sum(map(len, rows)) + len(rows) * max_tokens)
    samplers = [_sampler(seed, i) for i in range(len(rows))]
    batch = llama.llama_batch_init(max(PROMPTS_AT_ONCE, len(rows)), 0, 1)
    texts: list[tuple[list[int], list[float]]] = [([], []) for _ in rows]
    vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))

    def draw(row: int, place: int) -> None:
        token = llama.llama_sampler_sample(samplers[row], context, place)
        texts[row][0].append(token)
        if seed is None:
            logits = llama.llama_get_logits_ith(context, place)[:vocabulary]
            top = max(logits)
            texts[row][1].append(logits[token] - top - math.log(sum(math.exp(x - top) for x in logits)))

    try:
        waiting = [(row, place, token) for row, tokens in enumerate(rows) for place, token in enumerate(tokens)]
        for start in range(0, len(waiting), PROMPTS_AT_ONCE):
            part = waiting[start : start + PROMPTS_AT_ONCE]
            _decode(context, batch, [(token, place, row, place + 1 == len(rows[row])) for row, place, token in part])
            for slot, (row, place, _) in enumerate(part):
                if place + 1 == len(rows[row]):
                    draw(row, slot)
        for step in range(max_tokens - 1):
            _decode(context, batch, [(texts[row][0][-1], len(tokens) + step, row, True) for row, tokens in enumerate(rows)])
            for row in range(len(rows)):
                draw(row, row)
    finally:
        llama.llama_batch_free(batch)
        for sampler in samplers:
            llama.llama_sampler_free(sampler)
        llama.llama_free(context)
    return texts


def _context(model: Any, sequences: int, tokens: int) -> Any:
    settings = llama.llama_context_default_params()
    threads = int(os.environ["OMP_NUM_THREADS"])
    settings.n_ctx = tokens + 256
    settings.n_batch = settings.n_ubatch = PROMPTS_AT_ONCE
    settings.n_seq_max = sequences
    settings.kv_unified = True
    settings.n_threads = settings.n_threads_batch = threads
    context = llama.llama_init_from_model(model, settings)
    if not context:
        raise RuntimeError(f"llama.cpp made no context for {sequences} sequences of {tokens} tokens in all")
    return context


def _sampler(seed: int | None, row: int) -> Any:
    if seed is None:
        return llama.llama_sampler_init_greedy()
    return llama.llama_sampler_init_dist(1_000 * seed + row)


def _decode(context: Any, batch: Any, tokens: list[tuple[int, int, int, bool]]) -> None:
    """Run the model on (token, position, sequence, whether its logits are read)."""
    batch.n_tokens = len(tokens)
    for slot, (token, position, sequence, is_read) in enumerate(tokens):
        batch.token[slot], batch.pos[slot] = token, position
        batch.n_seq_id[slot], batch.seq_id[slot][0], batch.logits[slot] = 1, sequence, is_read
    if code := llama.llama_decode(context, batch):
        raise RuntimeError(f"llama_decode failed with {code}")


if __name__ == "__main__":
    serve({"generation": run_generation})
