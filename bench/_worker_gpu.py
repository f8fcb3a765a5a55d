"""Heedful's side of everything that ``bench/gpu.py`` measures, in one process for each size of model.

``python bench/_worker_gpu.py FOLDER``. Each answer has the peak of the GPU's memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from _worker import serve
from _worker_heedful import run_matmul, run_ppo, run_reward, run_sft
from _worker_heedful_generation import run_generation
from heedful.model.fast.allocator import keep_large_temporaries


def with_gpu_memory(run: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    def measured(**request: Any) -> dict[str, Any]:
        if not torch.cuda.is_available():
            return run(**request)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return run(**request) | {"peak_gpu_mib": torch.cuda.max_memory_allocated() / 2**20}

    return measured


def describe() -> dict[str, Any]:
    """The device that the models are on."""
    if not torch.cuda.is_available():
        return {"device": "CPU", "torch": torch.__version__}
    properties = torch.cuda.get_device_properties(0)
    memory = round(properties.total_memory / 2**30, 1)
    return {"device": properties.name, "memory_gib": memory, "torch": torch.__version__, "cuda": torch.version.cuda}


if __name__ == "__main__":
    keep_large_temporaries()  # as `heedful align` does
    parts = {"sft": run_sft, "reward": run_reward, "ppo": run_ppo, "generation": run_generation, "matmul": run_matmul}
    serve({name: with_gpu_memory(run) for name, run in parts.items()} | {"describe": describe})
