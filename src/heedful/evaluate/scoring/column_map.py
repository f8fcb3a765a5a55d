"""Chooses the columns that a metric reads: those that the user names, else those with usual names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from heedful.errors import ConfigError
from heedful.evaluate.foreign_tables import table_rows
from heedful.evaluate.scoring.cells import SampleColumns
from heedful.evaluate.scoring.samples import Metric

USES = ("response", "references", "logprobs", "answer", "cluster", "groups")
"""The uses of columns; ``references`` and ``groups`` may be several columns."""

_SEVERAL = ("references", "groups")
_USUAL: Mapping[str, tuple[str, ...]] = {
    "response": ("response", "sample", "output", "prediction", "completion", "generation", "generated_text", "model_output"),
    "references": ("references", "reference", "ref_text", "answers", "answer", "targets", "target", "gold", "ground_truth"),
    "logprobs": ("logprobs", "log_probs", "choice_logprobs", "loglikelihoods"),
    "answer": ("answer", "label", "gold", "target"),
}
_USUAL_GROUPS = ("model", "model_type", "model_name", "prompt_type")
_SEPARATED: Mapping[str, str] = {"ref_text": "|"}
"""Columns of published samples that hold several references in one text."""
_MAY_BE_SEPARATED: tuple[Metric, ...] = ("squad_v2", "drop", "quac")
_ROWS_LOOKED_AT = 100


def columns_of_file(path: str | Path, metric: Metric, named: Sequence[str], separator: str | None = None) -> SampleColumns:
    """Choose the columns for a metric. ``named``: entries "use=column", where a use is one of ``USES``.

    Raises ConfigError for an unknown use, a column that is not in the file, and a needed column that is neither named nor found
    by a usual name; MissingError or DataError for a file that cannot be read at all.
    """
    there, unread = _names(path)
    found = _named(named, there, path)
    for use in _needed(metric):
        if use not in found:
            usual = _first(_USUAL[use], there)
            if usual is None:
                raise ConfigError(
                    f"{Path(path).name} has no column that is known to hold the {use}",
                    expected=f"one of {', '.join(_USUAL[use])}, or a name for it",
                    got=", ".join(map(repr, there)) or unread,
                    where=path,
                    next_step=f"name it: --column {use}=NAME",
                )
            found[use] = [usual]
    groups = found.get("groups", [name for name in there if name.strip().lower() in _USUAL_GROUPS])
    if separator is None and metric in _MAY_BE_SEPARATED and len(found["references"]) == 1:
        separator = _SEPARATED.get(found["references"][0])
    columns = SampleColumns(
        references=tuple(found.get("references", ("references",))), groups=tuple(groups), separator=separator or None
    )
    return replace(columns, **{use: found[use][0] for use in ("response", "logprobs", "answer", "cluster") if use in found})


def in_words(columns: SampleColumns, metric: Metric) -> str:
    """Describe in one line which columns are read for what."""
    split = f" (split at {columns.separator!r})" if columns.separator else ""
    uses: dict[str, tuple[str, ...]] = {use: (str(getattr(columns, use)),) for use in _needed(metric) if use != "references"}
    if "references" in _needed(metric):
        uses["references"] = (*columns.references[:-1], columns.references[-1] + split)
    uses |= {"groups": columns.groups, "cluster": (columns.cluster,) if columns.cluster else ()}
    return "columns: " + "; ".join(f"{use} = {', '.join(names)}" for use, names in uses.items() if names)


def _needed(metric: Metric) -> tuple[str, ...]:
    return {"entropy": ("logprobs",), "choice": ("logprobs", "answer")}.get(metric, ("response", "references"))


def _names(path: str | Path) -> tuple[list[str], str]:
    """List every column of the first rows, in order (JSONL rows may differ); also return why there is none."""
    rows = table_rows(path)
    first = next(rows, None)
    unread = "a file without a row" if first is None else f"no row that can be read; line {first.line}: {first.problem}"
    sound = (row.value for row in chain([] if first is None else [first], rows) if row.problem is None)
    names: dict[str, None] = {}
    for row in islice(sound, _ROWS_LOOKED_AT):
        names |= dict.fromkeys(str(name) for name in row)  # type: ignore[union-attr]
    return list(names), unread


def _first(usual: Iterable[str], there: Sequence[str]) -> str | None:
    lower = {name.strip().lower(): name for name in there}
    return next((lower[name] for name in usual if name in lower), None)


def _named(named: Sequence[str], there: Sequence[str], path: str | Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for entry in named:
        use, equals, column = entry.partition("=")
        if not equals or use not in USES:
            raise ConfigError(
                "this names no column", expected=f"USE=COLUMN, where USE is one of {', '.join(USES)}", got=repr(entry)
            )
        if there and column not in there:
            raise ConfigError(
                f"{Path(path).name} has no column {column!r}", expected=f"one of {', '.join(map(repr, there))}", got=repr(entry)
            )
        if use in found and use not in _SEVERAL:
            raise ConfigError(f"the column of {use} is named twice", expected="one column", got=f"{found[use][0]}, {column}")
        found.setdefault(use, []).append(column)
    return found
