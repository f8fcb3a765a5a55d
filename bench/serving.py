"""Servers with OpenAI's API under load: ``python bench/serving.py NAME=URL[,MODEL] ... --streams 1 8 64``.

Start the servers first. They are measured in turns, in the same run. Each stream asks for one completion after another. No two
requests share a prompt, so caches of prompts help no server. Reported: tokens per second of all streams together, time to the
first token and between tokens, median and 99th percentile. A server may send several tokens in one event: then the time is that
between events. The number of tokens is the one that the server reports.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

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
    counted, events = 0, 0
    try:
        async with client.stream("POST", f"{contender.url}/completions", json=body) as answer:
            if answer.status_code != 200:
                into.failed += 1
                return
            async for line in answer.aiter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                event = json.loads(line.removeprefix("data: "))
                counted = (event.get("usage") or {}).get("completion_tokens", counted)
                if not event.get("choices") or not event["choices"][0].get("text"):
                    continue
                now = time.perf_counter()
                (into.between if events else into.first).append(now - (last if events else started))
                last, events = now, events + 1
    except httpx.HTTPError:
        into.failed += 1
        return
    into.tokens += counted or events


async def measure(contender: Contender, *, streams: int, requests: int, words: int, tokens: int, seed: int) -> dict[str, Any]:
    """One row of the table."""
    rng = random.Random(seed)
    prompts = [prompt_of(rng, words) for _ in range(max(requests, streams))]
    into = Measured()
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=streams)) as client:
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
    for row in sorted(rows, key=lambda row: row["streams"]):
        first, between = (
            f"{row[f'{kind}_p50_ms']:.0f}, {row[f'{kind}_p99_ms']:.0f} ms" for kind in ("first_token", "between_tokens")
        )
        cells = (row["streams"], row["contender"], f"{row['tokens_per_second']:.0f}", first, between, row["failed"])
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contenders", nargs="+", metavar="NAME=URL[,MODEL]")
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--requests", type=int, default=4, help="requests of each stream")
    parser.add_argument("--words", type=int, default=60, help="words of a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of a request")
    parser.add_argument("--out", type=Path, help="also write the rows here, as JSON")
    chosen = parser.parse_args()
    contenders = [contender_of(argument) for argument in chosen.contenders]
    common = {"words": chosen.words, "tokens": chosen.tokens}
    rows: list[dict[str, Any]] = []
    for contender in contenders:  # compile, fill caches
        asyncio.run(measure(contender, streams=max(chosen.streams), requests=1, seed=0, **common))
    for streams in chosen.streams:
        for contender in contenders:
            row = asyncio.run(measure(contender, streams=streams, requests=chosen.requests * streams, seed=streams, **common))
            rows.append(row)
            print(f"{contender.name}, {streams} streams: {row['tokens_per_second']:.0f} tokens/s", flush=True)
    print(table(rows))
    if chosen.out is not None:
        chosen.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
