"""Servers with OpenAI's API under load: ``python bench/serving.py NAME=URL[,MODEL] ... --streams 1 8 64``.

Start the servers first: they are measured in turns, in the same run. Or let ``--start FOLDER`` start each one alone, over the
weights in that folder: ours, ``transformers serve``, and vLLM's and llama.cpp's where ``python bench/_setup.py vllm llama`` has
installed them. Each stream asks for one completion after another. No two
requests share a prompt, so caches of prompts help no server. Reported: tokens per second of all streams together, time to the
first token and between tokens, median and 99th percentile. A server may send several tokens in one event: then the time is that
between events. The number of tokens is the one that the server reports.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from _servers import Server, running, servers
from heedful.web.model_server import events

WORDS = ("river", "mountain", "cat", "house", "green", "water", "quick", "letter", "song", "morning", "paper", "bridge")


@dataclass(frozen=True)
class Contender:
    name: str
    url: str
    model: str


@dataclass
class Measured:
    """What one contender did with one number of streams."""

    tokens: int = 0
    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    failed: int = 0


def contender_of(argument: str) -> Contender:
    name, _, rest = argument.partition("=")
    url, _, model = rest.partition(",")
    if not rest:
        raise SystemExit(f"expected NAME=URL[,MODEL], got {argument}")
    url = url.rstrip("/")
    return Contender(name, url, model or httpx.get(f"{url}/models", timeout=30).json()["data"][0]["id"])


def prompt_of(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))


async def one_request(client: httpx.AsyncClient, contender: Contender, prompt: str, tokens: int, into: Measured) -> None:
    body: dict[str, Any] = {
        "model": contender.model,
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 1.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started = last = time.perf_counter()
    counted, pieces = 0, 0
    try:
        async with client.stream("POST", f"{contender.url}/completions", json=body) as answer:
            if answer.status_code != 200:
                into.failed += 1
                return
            async for data in events(answer):
                if data == "[DONE]":
                    continue
                event = json.loads(data)
                counted = (event.get("usage") or {}).get("completion_tokens", counted)
                if not event.get("choices") or not event["choices"][0].get("text"):
                    continue
                now = time.perf_counter()
                (into.between if pieces else into.first).append(now - (last if pieces else started))
                last, pieces = now, pieces + 1
    except httpx.HTTPError:
        into.failed += 1
        return
    into.tokens += counted or pieces


async def measure(contender: Contender, *, streams: int, requests: int, words: int, tokens: int, seed: int) -> dict[str, Any]:
    """One row of the table."""
    rng = random.Random(seed)
    prompts = [prompt_of(rng, words) for _ in range(max(requests, streams))]
    into = Measured()
    async with httpx.AsyncClient(
        timeout=600, limits=httpx.Limits(max_connections=streams, max_keepalive_connections=streams)
    ) as client:
        # Connections are opened beforehand: the first one of a client costs more than a first token.
        await asyncio.gather(*(client.get(f"{contender.url}/models") for _ in range(streams)))
        waiting = iter(prompts)

        async def stream() -> None:
            for prompt in waiting:
                await one_request(client, contender, prompt, tokens, into)

        started = time.perf_counter()
        await asyncio.gather(*(stream() for _ in range(streams)))
        lasted = time.perf_counter() - started
    return {
        "contender": contender.name,
        "streams": streams,
        "requests": len(prompts),
        "failed": into.failed,
        "tokens_per_second": into.tokens / lasted,
        **{f"first_token_{name}": value for name, value in percentiles(into.first).items()},
        **{f"between_tokens_{name}": value for name, value in percentiles(into.between).items()},
    }


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Median and 99th percentile, in milliseconds."""
    if not seconds:
        return {"p50_ms": float("nan"), "p99_ms": float("nan")}
    return {f"p{p}_ms": 1_000 * float(np.percentile(seconds, p)) for p in (50, 99)}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table, servers beside each other for each number of streams."""
    lines = [
        "| streams | server | tokens/s | first token p50, p99 | between tokens p50, p99 | failed |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for row in sorted((row for row in rows if "error" not in row), key=lambda row: row["streams"]):
        first, between = (
            f"{row[f'{kind}_p50_ms']:.0f}, {row[f'{kind}_p99_ms']:.0f} ms" for kind in ("first_token", "between_tokens")
        )
        cells = (row["streams"], row["contender"], f"{row['tokens_per_second']:.0f}", first, between, row["failed"])
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += [f"\n{row['contender']} failed: {row['error'].splitlines()[0]}" for row in rows if "error" in row]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contenders", nargs="*", metavar="NAME=URL[,MODEL]")
    parser.add_argument("--start", type=Path, metavar="FOLDER", help="start servers of the model in this folder, one by one")
    parser.add_argument("--only", nargs="+", help="with --start: only the servers of these names")
    parser.add_argument("--seconds", type=float, default=660, help="with --start: no server is started after this time")
    parser.add_argument("--threads", type=int, default=2, help="with --start: threads of each server")
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--requests", type=int, default=4, help="requests of each stream")
    parser.add_argument(
        "--runs", type=int, default=1, help="runs of each number of streams; medians are shown (slow servers: one run)"
    )
    parser.add_argument("--words", type=int, default=60, help="words of a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of a request")
    parser.add_argument("--out", type=Path, help="also write the rows here, as JSON")
    chosen = parser.parse_args()
    if bool(chosen.contenders) == bool(chosen.start):
        parser.error("expected either servers (NAME=URL) or --start FOLDER")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the servers end too
    rows = started(chosen) if chosen.start else together([contender_of(argument) for argument in chosen.contenders], chosen)
    print(table(rows))
    keep(rows, chosen.out)


def together(contenders: list[Contender], chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Servers that run already, in turns."""
    rows: list[dict[str, Any]] = []
    for contender in contenders:
        warm_up(contender, chosen)
    for streams in chosen.streams:
        for contender in contenders:
            rows.append(measured(contender, streams, chosen.requests, chosen, chosen.runs))
            keep(rows, chosen.out)
    return rows


def started(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Each server by itself. One that does not start or fails is named; the rows are kept after each number of streams."""
    rows: list[dict[str, Any]] = []
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for server in servers(chosen.start.resolve(), Path(folder), chosen.threads, chosen.tokens):
            if chosen.only and server.name not in chosen.only:
                continue
            if time.monotonic() - begun > chosen.seconds:
                print(f"bench: no time was left for {server.name}", file=sys.stderr)
                continue
            try:
                for row in rows_of(server, Path(folder), chosen):
                    rows.append(row)
                    keep(rows, chosen.out)
            except (RuntimeError, httpx.HTTPError) as error:
                print(f"bench: {error}", file=sys.stderr)
                rows.append({"contender": server.name, "error": str(error)})
                keep(rows, chosen.out)
    return rows


def rows_of(server: Server, folder: Path, chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    asked = time.monotonic()
    with running(server, folder / f"{server.name}.log") as url:
        print(f"{server.name}: ready after {time.monotonic() - asked:.0f} s", flush=True)
        contender = Contender(server.name, url, server.model)
        warm_up(contender, chosen, most=server.requests or 64)
        for streams in chosen.streams:
            runs = 1 if server.requests else chosen.runs
            yield measured(contender, streams, server.requests or chosen.requests, chosen, runs) | {"command": server.command}


def warm_up(contender: Contender, chosen: argparse.Namespace, most: int = 64) -> None:
    """Compile, fill caches."""
    streams = min(max(chosen.streams), most)
    asyncio.run(measure(contender, streams=streams, requests=1, words=chosen.words, tokens=chosen.tokens, seed=0))


def measured(contender: Contender, streams: int, requests: int, chosen: argparse.Namespace, runs: int) -> dict[str, Any]:
    """The median run of each figure; failed requests of all runs together."""
    common = {"words": chosen.words, "tokens": chosen.tokens}
    rows = [
        asyncio.run(
            measure(contender, streams=streams, requests=max(4, requests * streams), seed=1_000 * run + streams, **common)
        )
        for run in range(runs)
    ]
    figures = [name for name in rows[0] if name.endswith(("_ms", "_per_second"))]
    row = rows[0] | {name: statistics.median(one[name] for one in rows) for name in figures}
    row |= {"failed": sum(one["failed"] for one in rows), "runs": [{name: one[name] for name in figures} for one in rows]}
    print(f"{contender.name}, {streams} streams: {row['tokens_per_second']:.0f} tokens/s", flush=True)
    return row


def keep(rows: list[dict[str, Any]], path: Path | None) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
