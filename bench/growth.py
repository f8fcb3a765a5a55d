"""How cost grows with K, with response length and with model size: ``python bench/growth.py --help``. One plot (SVG) each."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import generation
import reward
import sft
from _driver import measure, options, show

KS, LENGTHS, BATCH = (2, 4, 6, 9), (16, 32, 64, 128), 64


def main() -> None:
    chosen = options("growth", sizes=("S",))
    if chosen.quick:
        chosen.sizes = ["XS"]
    ks, lengths = ((2, 4), (8, 16)) if chosen.quick else (KS, LENGTHS)
    by_k(chosen, ks)
    by_length(chosen, lengths)
    by_size(chosen, ("XS",) if chosen.quick else ("XS", "S", "M"))


def by_k(chosen: Namespace, ks: Sequence[int]) -> None:
    best = dict(list(reward.BEST.items())[:1])
    result = measure("growth_k", "Cost of a ranked prompt by K", reward.cases(chosen, tuple(ks), best), chosen)

    def cost(case: dict[str, Any], row: dict[str, Any]) -> float:
        return 1_000 * reward.cost_of_prompt(case, row)

    plot(result, ks, "responses per prompt (K)", "training, ms per prompt", cost, chosen.out)
    show(result, chosen.out)


def by_length(chosen: Namespace, lengths: Sequence[int]) -> None:
    best = dict(list(generation.BEST.items())[:1])
    cases = chain.from_iterable(generation.cases(chosen, (BATCH,), n, best, stops=(False,)) for n in lengths)
    result = measure("growth_length", "Cost of a response by its length", cases, chosen)

    def cost(case: dict[str, Any], row: dict[str, Any]) -> float:
        return 1_000 * row["details"]["mean_length"] / row["rate"]

    plot(result, lengths, "tokens of a response", f"generation at batch {BATCH}, ms per response", cost, chosen.out)
    show(result, chosen.out)


def by_size(chosen: Namespace, sizes: Sequence[str]) -> None:
    best = dict(list(sft.BEST.items())[:1])
    several = Namespace(**{**vars(chosen), "sizes": list(sizes)})
    result = measure("growth_size", "Cost of SFT by model size", sft.cases(several, best), several)
    parameters = [12 * sft.SIZES[name].layers * sft.SIZES[name].width ** 2 for name in sizes]
    plot(
        result, parameters, "weights of the blocks", "SFT, µs per token", lambda _, row: 1e6 / row["rate"], chosen.out, log=True
    )
    show(result, chosen.out)


def plot(
    result: dict[str, Any],
    places: Sequence[float],
    across: str,
    up: str,
    cost: Callable[[dict[str, Any], dict[str, Any]], float],
    folder: Path,
    *,
    log: bool = False,
) -> None:
    """One line for each contender over the cases, which are in the order of ``places``."""
    import matplotlib

    matplotlib.use("svg")
    # Text stays text, and the same numbers give the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "heedful"})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.5, 3.6), layout="constrained")
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for place, case in zip(places, result["cases"], strict=True):
        for name, row in case["contenders"].items():
            xs, ys = lines.setdefault(name, ([], []))
            xs.append(place)
            ys.append(cost(case, row))
    for name, (xs, ys) in lines.items():
        axes.plot(xs, ys, marker="o", label=name)
    axes.set_yscale("log")
    if log:
        axes.set_xscale("log")
    axes.set(xlabel=across, ylabel=up, title=result["title"] + (" (quick run)" if result["quick"] else ""))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(folder / f"{result['benchmark']}.svg", metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()
