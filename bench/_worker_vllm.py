"""vLLM, in its own virtual environment: ``python bench/_worker_vllm.py FOLDER``.

A request's ``settings``: ``eager`` (else compiled), ``bind`` (the cores of vLLM's threads on a CPU: VLLM_CPU_OMP_THREADS_BIND).
Log-probabilities are not asked for, nor a seed for each request, which our side has: vLLM is faster without.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from _worker import Timing, peak_of_descendants_mib, serve

FOLDER = Path(sys.argv[1])
# Room for the prompts and answers of every benchmark.
WINDOW, CACHE_BYTES = 256, 2**29
engines: dict[str, Any] = {}
exact: dict[str, Any] = {}


def run_generation(
    batch_size: int, max_tokens: int, stop: bool, seed: int, count: int, settings: dict[str, Any], check: bool = False
) -> dict[str, Any]:
    """check: also compute greedy text in float32, with an engine of its own, once."""
    rows = json.loads((FOLDER / "prompts.json").read_text())
    _prepare(settings)
    vllm: Any = importlib.import_module("vllm")
    if check and not exact:
        exact.update(_greedy(vllm, rows[:4]))
    begun = time.perf_counter()
    if "engine" not in engines:
        engines["engine"] = _engine(vllm, "bfloat16", settings["eager"])
    started = time.perf_counter() - begun
    llm, rows = engines["engine"], rows[:count]
    parameters = vllm.SamplingParams(
        temperature=1.0,
        max_tokens=max_tokens,
        ignore_eos=not stop,
        detokenize=False,
    )
    requests = [vllm.TokensPrompt(prompt_token_ids=row) for row in rows]
    timing = Timing()
    timing.begin()
    outputs: list[Any] = []
    for i in range(0, len(requests), batch_size):
        outputs += llm.generate(requests[i : i + batch_size], parameters, use_tqdm=False)
    timing.end(0)
    result = timing.result(1)
    result["peak_mib"] += peak_of_descendants_mib()
    lengths = [len(output.outputs[0].token_ids) for output in outputs]
    return result | {"engine_made_in_seconds": started, "lengths": lengths} | exact


def _prepare(settings: dict[str, Any]) -> None:
    """Before vLLM is imported: its processes inherit the environment, with the libraries that its manual asks for."""
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ["VLLM_LOGGING_LEVEL"] = "WARNING"
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = settings["bind"]
    libraries = [Path(sys.prefix) / "lib" / "libiomp5.so", Path("/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4")]
    os.environ["LD_PRELOAD"] = ":".join(str(library) for library in libraries if library.exists())


def _engine(vllm: Any, number_type: str, eager: bool) -> Any:
    on_cpu: dict[str, Any] = {"kv_cache_memory_bytes": CACHE_BYTES} if _is_cpu() else {}
    return vllm.LLM(
        model=str(FOLDER / "policy"),
        dtype=number_type,
        max_model_len=WINDOW,
        enforce_eager=eager,
        enable_prefix_caching=False,
        generation_config="vllm",
        seed=1,
        use_tqdm_on_load=False,
        **on_cpu,
    )


def _is_cpu() -> bool:
    platforms: Any = importlib.import_module("vllm.platforms")
    return bool(platforms.current_platform.is_cpu())


def _greedy(vllm: Any, rows: list[list[int]]) -> dict[str, Any]:
    llm = _engine(vllm, "float32", eager=True)
    parameters = vllm.SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True, logprobs=0, detokenize=False)
    outputs = llm.generate([vllm.TokensPrompt(prompt_token_ids=row) for row in rows], parameters, use_tqdm=False)
    del llm
    gc.collect()
    texts = [output.outputs[0] for output in outputs]
    logprobs = [place[token].logprob for text in texts for place, token in zip(text.logprobs, text.token_ids, strict=True)]
    return {"greedy": [list(text.token_ids) for text in texts], "greedy_logprob": sum(logprobs) / len(logprobs)}


if __name__ == "__main__":
    serve({"generation": run_generation})
