"""The rows of a file under a format, and which format fits a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from heedful.errors import DataError
from heedful.project.data_folder import kind_of
from heedful.project.files import Row
from heedful.project.formats import FORMATS
from heedful.project.formats.row_keys import UNUSED
from heedful.project.formats.rows import BadRow, Draft, SkippedRow, reason_of
from heedful.project.storable import unstorable

_ROWS_TRIED = 20


def groups_of(format: str, rows: Sequence[Row]) -> list[list[Row]]:
    """Groups of rows that the format reads together, in the order of their first rows; any other row is a group of its own."""
    group_of = FORMATS[format].group
    groups: dict[object, list[Row]] = {}
    for row in rows:
        name = group_of(row.value) if group_of is not None and isinstance(row.value, dict) else None
        groups.setdefault(("row", row.line, id(row)) if name is None else name, []).append(row)
    return list(groups.values())


def draft_of(format: str, group: Sequence[Row], labeler: str | None) -> Draft:
    """The records of a group of rows. Raises BadRow, SkippedRow."""
    first = group[0]
    if first.problem is not None:
        raise BadRow(first.problem)
    reader = FORMATS[format]
    grouped = reader.group is not None and isinstance(first.value, dict) and reader.group(first.value) is not None
    try:
        draft = reader.read([row.value for row in group] if grouped else first.value, labeler)
    except DataError as error:  # a record refused its value
        raise BadRow(reason_of(error)) from None
    for record in draft.records:
        if problem := unstorable(record):
            raise BadRow(f"the {kind_of(record)} cannot be stored: {problem}")
    return draft


def nothing_usable(
    format: str, path: Path, rows: list[Row], rejected: list[tuple[Row, str]], skipped: Mapping[str, int]
) -> DataError:
    """The error for an import that could use no row: it names the most frequent reason, and a format that fits, if any."""
    if not rows:
        return DataError(f"{path.name} holds no rows", expected=FORMATS[format].sample, got="an empty file", where=path)
    reasons = Counter(reason for _, reason in rejected) + Counter(skipped)
    why, count = reasons.most_common(1)[0]
    first = rows[0]
    if isinstance(first.value, Mapping):
        got = "a first row with the keys " + ", ".join(map(str, first.value))
    else:
        got = f"a first row that is {first.problem or 'not an object but a ' + type(first.value).__name__}"
    fits = next((name for name in _fitting(rows) if name != format), None)
    return DataError(
        f"no row of {path.name} is usable as {format}: {why} ({count} of {len(rows)} rows)",
        expected=FORMATS[format].sample,
        got=got,
        where=f"{path}:{first.line}",
        next_step=f"it looks like the format {fits}: import it as that"
        if fits
        else f"bring the rows into one of: {', '.join(FORMATS)}",
    )


def format_that_fits(path: Path, rows: list[Row]) -> str:
    """Detect a file's format. Raises DataError if no format fits."""
    if fitting := _fitting(rows):
        return fitting[0]
    if not rows:
        raise DataError(f"{path.name} holds no rows", expected="rows of a format that import reads", got="no row", where=path)
    first = next((row for row in rows if isinstance(row.value, Mapping)), None)
    raise DataError(
        f"no format that import reads fits the rows of {path.name}",
        expected="; ".join(f"{name}: {format.sample}" for name, format in FORMATS.items()),
        got="no object" if first is None else "a row with the keys " + ", ".join(map(str, first.value)),  # type: ignore[arg-type]
        where=path if first is None else f"{path}:{first.line}",
        next_step="bring the rows into one of these forms",
    )


def _fitting(rows: list[Row]) -> list[str]:
    """The formats that can read most of the first rows: fewest unused keys first and, among equals, the narrower one."""
    tried = rows[:_ROWS_TRIED]
    unused: dict[str, int] = {}
    for format in FORMATS:
        drafts: list[Draft] = []
        usable = 0
        for group in groups_of(format, tried):
            try:
                drafts.append(draft_of(format, group, "anyone"))
                usable += len(group)
            except SkippedRow:
                usable += len(group)
            except BadRow:
                pass
        if 2 * usable > len(tried):
            unused[format] = sum(note.startswith(UNUSED) for draft in drafts for note in draft.notes)
    return sorted(unused, key=lambda format: unused[format])
