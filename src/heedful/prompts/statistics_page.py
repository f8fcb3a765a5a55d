"""The tables as one HTML page with figures (matplotlib, inline SVG); the page loads nothing and runs no scripts."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from heedful.errors import MissingError
from heedful.project.files import write_atomically
from heedful.prompts.printing import table_rows
from heedful.prompts.prompt_tables import DATA_SETS, Tables
from heedful.records import USE_CASE_SHARES

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
body { color: #1c2430; background: #fff; }
table { border-collapse: collapse; margin: .5rem 0 2rem; display: block; overflow-x: auto; }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem; white-space: nowrap; }
th, td { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid #dde2e8; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1rem 0 2rem; } figure svg { max-width: 100%; height: auto; } figcaption { font-weight: 600; }
"""
_OURS, _PAPER = "#2563a8", "#9aa5b1"


def write_page(tables: Tables, name: str, path: str | Path) -> None:
    """Write the page. Raises MissingError if matplotlib is not installed, StorageError."""
    try:
        figures = _figures(tables)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "matplotlib":
            raise
        raise MissingError(
            "figures are drawn by matplotlib, which is not installed",
            expected="the extra prompts",
            got="no module matplotlib",
            next_step="pip install 'heedful[prompts]'",
        ) from None
    parts = [
        f"<h1>Prompts of {escape(name)}</h1>",
        f"<p>{tables.num_prompts:,} prompts, {tables.needs_review:,} flagged for review.</p>",
    ]
    parts += [f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>" for title, svg in figures]
    parts += [_table(*table) for table in table_rows(tables)]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Prompts of {escape(name)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
    write_atomically(path, page)


def _table(title: str, heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in heading)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    empty = "" if rows else "<p>The data do not say.</p>"
    return f"<table><caption>{escape(title)}</caption><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>{empty}"


def _figures(tables: Tables) -> list[tuple[str, str]]:
    """Title and SVG of every figure."""
    return [
        ("Use cases, % of prompts (Table 1)", _use_cases(tables)),
        ("Prompts by data set and split (Table 6)", _sizes(tables)),
        (f"Lengths of prompts in {tables.unit} (Table 9)", _histogram(tables)),
        ("Languages, prompts", _languages(tables)),
    ]


def _use_cases(tables: Tables) -> str:
    data_set = next(name for name in ("RM", "all") if name in tables.use_cases)
    counts = tables.use_cases[data_set]
    names = [*USE_CASE_SHARES, *(name for name in counts if name not in USE_CASE_SHARES)]
    total = sum(counts.values())
    with _axes(height=0.32 * len(names) + 1) as (axes, done):
        place = np.arange(len(names))
        axes.barh(
            place - 0.2, [100 * counts.get(name, 0) / total for name in names], 0.38, color=_OURS, label=f"yours ({data_set})"
        )
        axes.barh(place + 0.2, [100 * USE_CASE_SHARES.get(name, 0) for name in names], 0.38, color=_PAPER, label="paper (RM)")
        axes.set_yticks(place, names)
        axes.invert_yaxis()
        axes.set_xlabel("%")
        axes.legend(frameon=False, loc="lower right")
        return done()


def _sizes(tables: Tables) -> str:
    with _axes(height=2.6) as (axes, done):
        left = np.zeros(len(DATA_SETS))
        for split, shade in (("train", _OURS), ("valid", "#6f9fd0"), ("test", "#bcd3ea")):
            counts = np.array(
                [sum(n for (of, _), n in tables.sizes[name].items() if of == split) for name in DATA_SETS], dtype=float
            )
            axes.barh(range(len(DATA_SETS)), counts, left=left, color=shade, label=split)
            left += counts
        axes.set_yticks(range(len(DATA_SETS)), DATA_SETS)
        axes.invert_yaxis()
        axes.set_xlabel("prompts")
        axes.legend(frameon=False, loc="upper right")
        return done()


def _histogram(tables: Tables) -> str:
    with _axes(height=2.6) as (axes, done):
        axes.hist(tables.lengths, bins=min(40, max(5, int(tables.lengths.max()))), color=_OURS)
        axes.set_xlabel(tables.unit)
        axes.set_ylabel("prompts")
        return done()


def _languages(tables: Tables) -> str:
    top = list(tables.languages.items())[:12]
    with _axes(height=0.3 * len(top) + 1) as (axes, done):
        axes.barh([name for name, _ in top], [count for _, count in top], color=_OURS)
        axes.invert_yaxis()
        axes.set_xlabel("prompts")
        return done()


@contextmanager
def _axes(*, height: float) -> Iterator[tuple[Any, Callable[[], str]]]:
    """Axes to draw on, and a function that returns their SVG; the same input gives the same text."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "heedful", "text.parse_math": False, "font.family": "DejaVu Sans"}
    with mpl.rc_context(style):
        figure = Figure(figsize=(7, height), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)

        def svg() -> str:
            file = io.StringIO()
            figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
            return file.getvalue().partition("<svg")[1] + file.getvalue().partition("<svg")[2]

        yield axes, svg
