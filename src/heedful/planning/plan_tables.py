"""A plan as tables for people and as JSON for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from heedful.planning.plan import GB, Plan, StepPlan
from heedful.planning.text_lengths import PERCENTILES, TextLengths, percentile


def show_plan(plan: Plan, console: Console) -> None:
    """Print the plan: memory per GPU, operations, time, and one line that says what fits."""
    a = plan.assumptions
    where = "this machine's CPU" if a.gpus == 0 else f"{a.gpus:,} × {a.gpu}"
    console.print(
        f"{plan.policy.name}: {_count(plan.policy.parameters)} parameters; reward and value models: {plan.reward.name}, "
        f"{_count(plan.reward.scalar_parameters)} each; on {where}",
        highlight=False,
    )
    memory = Table(title="memory in GB" + (" on each GPU" if a.gpus else ""), title_justify="left")
    memory.add_column("step")
    memory.add_column("moment")
    for heading in ("parameters", "gradients", "optimiser", "activations", "KV cache", "workspace", "sum"):
        memory.add_column(heading, justify="right")
    for step in plan.steps:
        for number, (moment, m) in enumerate(step.moments.items()):
            parts = (m.parameters, m.gradients, m.optimiser, m.activations, m.cache, m.workspace, m.total)
            style = None if m is not step.peak else "bold" if step.advice is None else "bold red"
            last = number == len(step.moments) - 1
            memory.add_row(
                "" if number else step.step, moment, *(_gigabytes(part) for part in parts), style=style, end_section=last
            )
    console.print(memory)
    _show_settings(plan, console)
    work = Table(title="petaflop/s-days and time", title_justify="left")
    work.add_column("step")
    for heading in ("tokens", "true count", "full context", "time"):
        work.add_column(heading, justify="right")
    for step in plan.steps:
        work.add_row(
            step.step,
            _count(step.true.tokens),
            _short(step.true.petaflops_days),
            _short(step.full_context.petaflops_days),
            _time(step.seconds),
        )
    console.print(work)
    if a.cpu is not None:
        console.print(
            f"the time assumes {a.utilization:.0%} of {a.cpu.flops / 1e9:,.0f} billion operations per second, just measured "
            f"with matrix products of this model's width, and {a.cpu.bandwidth / 1e9:,.1f} GB of memory per second",
            highlight=False,
            soft_wrap=True,
        )
    _show_lengths(plan, console)
    if a.gpus == 0:
        console.print(
            "not included: 0.4 GB for Python with torch, and holes in the heap (up to 28 % more in measurements)",
            highlight=False,
        )
    console.print(plan.verdict, highlight=False, soft_wrap=True, markup=False)


def _show_settings(plan: Plan, console: Console) -> None:
    if not plan.settings:
        return
    table = Table(title="settings for this size", title_justify="left")
    table.add_column("setting")
    table.add_column("value", justify="right")
    table.add_column("source")
    for setting in plan.settings:
        table.add_row(escape(setting.name), f"{setting.value:g}", setting.source)
    console.print(table)


def _show_lengths(plan: Plan, console: Console) -> None:
    """Print percentiles of the texts' lengths, what the limits leave out, and better limits."""
    if plan.lengths is not None and plan.lengths.kinds():
        table = Table(title="lengths of the texts in tokens", title_justify="left")
        table.add_column("texts")
        for heading in ("measured", *(f"{percent} %" for percent in PERCENTILES), "longest"):
            table.add_column(heading, justify="right")
        for kind, lengths in plan.lengths.kinds().items():
            cells = [percentile(lengths, percent) for percent in (*PERCENTILES, 100)]
            table.add_row(kind, f"{len(lengths):,}", *(f"{cell:,}" for cell in cells))
        console.print(table)
    if plan.limits is not None:
        for line in (*plan.limits.effects, plan.limits.proposal):
            if line:
                console.print(line, highlight=False, soft_wrap=True, markup=False)


def _lengths_as_json(lengths: TextLengths) -> dict[str, Any]:
    """For each kind of text: how many were measured, percentiles, and the longest."""
    return {
        kind: {"measured": len(found)} | {str(percent): percentile(found, percent) for percent in (*PERCENTILES, 100)}
        for kind, found in lengths.kinds().items()
    }


def plan_as_json(plan: Plan) -> dict[str, Any]:
    """The plan in base units: bytes, operations, seconds."""
    return {
        "model": asdict(plan.policy) | {"scalar_parameters": plan.policy.scalar_parameters},
        "reward_model": asdict(plan.reward) | {"scalar_parameters": plan.reward.scalar_parameters},
        "assumptions": asdict(plan.assumptions) | {"memory_bytes": int(plan.assumptions.memory)},
        "steps": [_step_as_json(step) for step in plan.steps],
        "settings": [asdict(setting) for setting in plan.settings],
        "lengths": None if plan.lengths is None else _lengths_as_json(plan.lengths),
        "limits": None if plan.limits is None else asdict(plan.limits),
        "verdict": plan.verdict,
    }


def _step_as_json(step: StepPlan) -> dict[str, Any]:
    return {
        "step": step.step,
        "memory_bytes": {moment: asdict(memory) | {"sum": memory.total} for moment, memory in step.moments.items()},
        "peak_memory_bytes": step.peak.total,
        "true": asdict(step.true) | {"petaflops_days": step.true.petaflops_days},
        "full_context": asdict(step.full_context) | {"petaflops_days": step.full_context.petaflops_days},
        "seconds": step.seconds,
        "fits": step.advice is None,
        "advice": step.advice,
    }


def _gigabytes(number: int) -> str:
    return "" if number == 0 else f"{number / GB:,.1f}" if number >= GB else f"{number / GB:.3f}"


def _count(number: float) -> str:
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:.0f}"


def _short(number: float) -> str:
    return f"{number:.3g}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "not estimated"
    for unit, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.1f} s"
