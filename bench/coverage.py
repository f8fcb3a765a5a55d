"""How often intervals hold the true win rate in simulated studies: ``python -m bench.coverage``. One plot (SVG)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.statistics.studies import DESIGNS, Design, crossing, outcomes, true_win_rate

from heedful.statistics import two_way_win_rate

NUM_STUDIES = 2000
KINDS = {"naive": "naive", "by_prompt": "by prompt", "by_labeler": "by labeler", "two_way": "by prompt and labeler"}
FIGURE = Path(__file__).resolve().parents[1] / "docs" / "_static" / "coverage.svg"


def main() -> None:
    shares = {design.name: coverage(design) for design in DESIGNS}
    for name, found in shares.items():
        print(f"{name:<16}" + "  ".join(f"{KINDS[kind]} {share:.1%}" for kind, share in found.items()))
    plot(shares)


def coverage(design: Design) -> dict[str, float]:
    """Share of studies whose interval holds the true win rate, by kind of interval."""
    generator = np.random.default_rng(0)
    prompts, labelers = crossing(design, generator)
    truth = true_win_rate(design)
    held = dict.fromkeys(KINDS, 0)
    for study in outcomes(design, prompts, labelers, NUM_STUDIES, generator):
        found = two_way_win_rate(study, prompts, labelers)
        for kind in KINDS:
            interval = getattr(found, kind)
            held[kind] += interval.low <= truth <= interval.high
    return {kind: count / NUM_STUDIES for kind, count in held.items()}


def plot(shares: dict[str, dict[str, float]]) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "heedful"})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 3.2), layout="constrained")
    for place, (kind, marker) in enumerate(zip(KINDS, "x^so", strict=True)):
        across = np.arange(len(shares)) + (place - 1.5) * 0.08
        axes.plot(across, [100 * found[kind] for found in shares.values()], marker, label=KINDS[kind])
    axes.axhspan(93.5, 96.5, color="0.9", zorder=0)
    axes.axhline(95, color="0.5", linewidth=0.8, zorder=0)
    axes.set_xticks(range(len(shares)), list(shares))
    axes.set_ylabel("studies whose 95 % interval\nholds the true win rate (%)")
    axes.set_ylim(50, 100)
    axes.legend(loc="lower right", fontsize="small")
    figure.savefig(FIGURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
