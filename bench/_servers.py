"""Servers with OpenAI's API over the same weights, each started alone: what ``bench/serving.py --start`` measures."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from _gguf import make_gguf
from _setup import folder_of, is_ready, python_of

START_SECONDS = 180


@dataclass(frozen=True)
class Server:
    """How one server is started.

    command: with {port}. model: its name in requests. requests: of each stream, for a slow server; None: as many as asked for.
    """

    name: str
    command: list[str]
    model: str
    environment: dict[str, str] = field(default_factory=dict)
    requests: int | None = None


def servers(model: Path, folder: Path, threads: int, tokens: int) -> Iterator[Server]:
    """Ours, vLLM's, llama.cpp's and transformers', those that are installed. folder: for a copy of the weights in GGUF."""
    program = str(Path(sys.executable).with_name("heedful"))
    cores = {"OMP_NUM_THREADS": str(threads)}
    yield Server("ours", [program, "serve", f"bench={model}", "--port", "{port}"], "bench", cores)
    if is_ready("vllm"):
        python = str(python_of("vllm"))
        vllm = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", "bench"]
        vllm += ["--dtype", "bfloat16", "--max-model-len", "512", "--no-enable-prefix-caching", "--port", "{port}"]
        vllm += ["--generation-config", "vllm"]
        settings = cores | {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
        library = folder_of("vllm") / "lib" / "libiomp5.so"
        settings |= {"LD_PRELOAD": str(library)} if library.exists() else {}
        yield Server("vllm-compiled", vllm, "bench", settings)
        yield Server("vllm-eager", [*vllm, "--enforce-eager"], "bench", settings)
    else:
        print("bench: without vLLM: first run `python bench/_setup.py vllm`", file=sys.stderr)
    few = 1 if tokens > 16 else None  # the ones below answer slowly: a request of each stream is enough
    if is_ready("llama"):
        gguf = folder / "model-bf16.gguf"
        make_gguf(model, gguf, "bf16")
        llama = [str(python_of("llama")), "-m", "llama_cpp.server", "--model", str(gguf), "--model_alias", "bench"]
        llama += ["--n_ctx", "1024", "--n_threads", str(threads), "--n_threads_batch", str(threads), "--port", "{port}"]
        yield Server("llama.cpp", llama, "bench", cores, few)
    else:
        print("bench: without llama.cpp: first run `python bench/_setup.py llama`", file=sys.stderr)
    serve = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--dtype", "bfloat16", "--device", "cpu"]
    yield Server("transformers", [*serve, "--port", "{port}"], str(model), cores | {"HF_HUB_OFFLINE": "1"}, few)


@contextmanager
def running(server: Server, log: Path, seconds: float = START_SECONDS) -> Iterator[str]:
    """Start a server, wait until it answers, give its address, and end it with all processes that it has started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [part.replace("{port}", str(port)) for part in server.command]
    url = f"http://127.0.0.1:{port}/v1"
    with open(log, "w") as said:
        process = subprocess.Popen(
            command, env=os.environ | server.environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait(process, url, server, log, seconds)
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, server: Server, log: Path, seconds: float) -> None:
    """Until it completes a text: a server may answer before its model is loaded."""
    body = {"model": server.model, "prompt": "river", "max_tokens": 2}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"{server.name} ended with {process.returncode}:\n{_end_of(log)}")
        with suppress(httpx.HTTPError):
            if httpx.post(f"{url}/completions", json=body, timeout=seconds).status_code == 200:
                return
        time.sleep(0.5)
    raise RuntimeError(f"{server.name} was not ready after {seconds:.0f} s:\n{_end_of(log)}")


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-1_500:]
