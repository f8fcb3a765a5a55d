"""Reports of the prompt pipeline on a console: what an import did, what forgetting did, and the paper's tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from rich.console import Console
from rich.table import Table
from rich.text import Text

from heedful.project.structure import printable
from heedful.prompts.forgetting import ForgetReport
from heedful.prompts.intake import IntakeReport
from heedful.prompts.prompt_tables import DATA_SETS, PROMPT_METADATA, Lengths, Tables
from heedful.records import USE_CASE_SHARES, Source, Split

PAPER_SIZES: Mapping[tuple[str, str, str], int] = {
    ("SFT", "train", "labeler"): 11_295,
    ("SFT", "train", "customer"): 1_430,
    ("SFT", "valid", "labeler"): 1_550,
    ("SFT", "valid", "customer"): 103,
    ("RM", "train", "labeler"): 6_623,
    ("RM", "train", "customer"): 26_584,
    ("RM", "valid", "labeler"): 3_488,
    ("RM", "valid", "customer"): 14_399,
    ("PPO", "train", "customer"): 31_144,
    ("PPO", "valid", "customer"): 16_185,
}
"""The paper's numbers of prompts (SPEC 1.4, Table 6): data set, split, source."""

_MOST_LANGUAGES = 20


def show_intake(report: IntakeReport, console: Console) -> None:
    """Print what became of the rows."""
    table = Table("rows", "", box=None, pad_edge=False, show_header=False)
    table.columns[1].justify = "right"
    table.add_row("read", f"{report.read:,}")
    table.add_row("added", f"{report.added:,}")
    table.add_row("already there", f"{report.already_there:,}")
    for category, count in report.left_out.items():
        table.add_row(f"left out: {category}", f"{count:,}")
    _print(console, f"prompts from {report.file} ({report.format})")
    console.print(table)
    for reason in report.reasons:
        _print(console, f"  {reason}")
    left_out = sum(report.left_out.values())
    if left_out:
        more = f"and {left_out - len(report.reasons):,} more, " if left_out > len(report.reasons) else ""
        _print(console, f"  {more}all in {report.rejected_file}")
    if report.added:
        splits = ", ".join(f"{count:,} {split}" for split, count in report.splits.items())
        _print(console, f"new prompts: {splits}; owners: {report.owners:,}")
    for note, count in report.notes.items():
        _print(console, f"note: {count:,} {note}")
    if report.without_owner:
        _print(console, f"note: {report.without_owner:,} new prompts have no owner: split by their text, under no cap")
    if report.flagged:
        _print(console, f"note: {report.flagged:,} new prompts outside of train hold personal data: kept, flagged for review")
    if report.one_split is not None:
        _print(console, f"warning: {report.one_split}")


def show_forgotten(report: ForgetReport, console: Console) -> None:
    """Print what was erased, and what the user still has to erase."""
    erased = ", ".join(f"{what} {count:,}" for what, count in report.erased.items()) or "nothing was left to erase"
    _print(console, f"forgotten on {report.time}: {erased}")
    cleaned = [f"{path}: {count:,} {'place' if count == 1 else 'places'}" for path, count in report.cleaned.items()]
    again = (
        "the next `heedful align` trains them again:"
        if report.marked
        else "--retrain lets the next `heedful align` train them again:"
    )
    for title, paths in (
        ("erased from other files too:", cleaned),
        ("these models may have learned from the text, which cannot be erased from their weights; delete them:", report.models),
        (f"these runs used the text, or build on a run that did; {again}", report.to_retrain),
        (
            "these files may hold the text and were not changed; check them, delete them or make them again:",
            report.files,
        ),
        ("these owners' ids are almost the same; if it is one person, forget them too:", report.similar),
    ):
        if paths:
            _print(console, title)
        for path in paths:
            _print(console, f"  {path}")
    _print(
        console,
        "Heedful does not know of copies elsewhere (exports, other backups, the imported files): erase them yourself.",
    )


def show_tables(tables: Tables, console: Console) -> None:
    """Print all tables."""
    for table in rich_tables(tables):
        console.print(table)
        console.print()


def rich_tables(tables: Tables) -> Iterator[Table]:
    """Tables 1 and 6 to 11 and the languages, in this order."""
    for title, heading, rows in table_rows(tables):
        table = Table(*heading, title=title, title_justify="left")
        for column in table.columns[1:]:
            column.justify = "right"
        for row in rows:
            table.add_row(*map(Text, row))
        yield table


TextTable = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
"""Title, heading and rows."""


def table_rows(tables: Tables) -> list[TextTable]:
    """Every table, as text."""
    length = ("count", "mean", "std", "min", "25%", "50%", "75%", "max")
    unit = tables.unit
    return [
        _use_cases(tables),
        _sizes(tables),
        (
            "Table 7: how labelers describe the prompts",
            ("field", "yes, %", "prompts with an answer"),
            [(PROMPT_METADATA[name], f"{100 * yes / of:.1f}", f"{of:,}") for name, (yes, of) in tables.metadata.items()],
        ),
        _owners(tables),
        (
            f"Table 9: prompt lengths in {unit}, by data set",
            ("data set", "split", *length),
            [(*key, *_lengths(row)) for key, row in tables.by_data_set.items()],
        ),
        (
            f"Table 10: prompt lengths in {unit}, by use case",
            ("use case", *length),
            [(key, *_lengths(row)) for key, row in tables.by_use_case.items()],
        ),
        (
            f"Table 11: prompt and demonstration lengths in {unit}, by the prompt's source",
            ("text", "source", *length),
            [(*key, *_lengths(row)) for key, row in tables.by_source.items()],
        ),
        (
            "Languages",
            ("language", "prompts", "%"),
            [
                (printable(name), f"{count:,}", f"{100 * count / tables.num_prompts:.1f}")
                for name, count in _most(tables.languages).items()
            ],
        ),
    ]


def _use_cases(tables: Tables) -> TextTable:
    totals = {data_set: sum(counts.values()) for data_set, counts in tables.use_cases.items()}
    rows: list[tuple[str, ...]] = []
    for name in dict.fromkeys(name for counts in tables.use_cases.values() for name in counts):
        ours = (f"{100 * tables.use_cases[data_set].get(name, 0) / total:.1f}" for data_set, total in totals.items())
        rows.append((name, *ours, f"{100 * USE_CASE_SHARES[name]:.1f}" if name in USE_CASE_SHARES else ""))
    return "Table 1: use cases, % of prompts", ("use case", *totals, "paper's RM"), rows


def _sizes(tables: Tables) -> TextTable:
    rows: list[tuple[str, ...]] = []
    for split in get_args(Split):
        for source in get_args(Source):
            if any((split, source) in tables.sizes[name] for name in DATA_SETS):
                counts = (
                    _count(count)
                    for name in DATA_SETS
                    for count in (tables.sizes[name].get((split, source)), PAPER_SIZES.get((name, split, source)))
                )
                rows.append((split, source, *counts))
    heading = ("split", "source", *(f"{name}{paper}" for name in DATA_SETS for paper in ("", " (paper)")))
    return "Table 6: prompts by data set, split and source", heading, rows


def _owners(tables: Tables) -> TextTable:
    heading = ("data set", "split", "owners", "prompts", "mean", "median", "max", "top ten, %")
    rows = [
        (
            *key,
            f"{row.owners:,}",
            f"{row.prompts:,}",
            f"{row.mean:.1f}",
            f"{row.median:.1f}",
            f"{row.max:,}",
            f"{100 * row.top_ten:.1f}",
        )
        for key, row in tables.owners.items()
    ]
    return "Table 8: prompts per owner", heading, rows


def _most(languages: Mapping[str, int]) -> dict[str, int]:
    names = list(languages)
    shown = {name: languages[name] for name in names[:_MOST_LANGUAGES]}
    rest = names[_MOST_LANGUAGES:]
    return {**shown, f"{len(rest)} others": sum(languages[name] for name in rest)} if rest else shown


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _lengths(row: Lengths) -> tuple[str, ...]:
    values: tuple[Any, ...] = (row.mean, row.std, row.min, row.q25, row.q50, row.q75, row.max)
    return (f"{row.count:,}", *(f"{value:,.0f}" for value in values))


def _print(console: Console, message: str) -> None:
    console.print(printable(message), markup=False, highlight=False, soft_wrap=True)
