"""Prompts with outputs that a researcher uploads: read, shown, and stored after the researcher confirms.

Each row is one prompt with its outputs. JSON Lines (or a JSON list)::

    {"prompt": "Name a river.", "responses": ["The Rhine.", {"text": "The Danube.", "model": "mine"}]}
    {"messages": [{"role": "user", "content": "Hello"}], "responses": ["Hi!"]}

CSV: a column ``prompt`` and columns ``response``, ``response_2``, ``response 3`` ...
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

from starlette.responses import Response as Page

from heedful.errors import DataError
from heedful.labeling.database import events
from heedful.labeling.queue import items
from heedful.project.files import Row, row_of_text
from heedful.project.formats.ranked_rows import NO_RANKING, read_responses
from heedful.project.formats.row_keys import UNUSED
from heedful.project.formats.rows import BadRow, an_object, optional_text
from heedful.project.storable import unstorable
from heedful.project.table_files import rows_of_table
from heedful.records import Prompt, Response, Split
from heedful.web.routing import Form, Routes, Upload, Visit, Visiting

MOST_ROWS = 5_000
SHOWN = 5
"""Rows of the preview."""

_JUDGED = re.compile(r"ranks?(_|\d|$)|ratings?(_|\d|$)|scores?(_|\d|$)")


def routes(add: Routes) -> None:
    """The page for uploads."""
    add.get("/batches/upload", show, who="researcher")
    add.post("/batches/upload", preview, who="researcher", upload=True)
    add.post("/batches/upload/store", store, who="researcher")


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded:
    """One row: a prompt and its outputs."""

    prompt: Prompt
    responses: tuple[Response, ...]
    notes: tuple[str, ...]
    """What was left out of the row."""


def show(visit: Visiting) -> Page:
    """The form."""
    return _page(visit, "")


def preview(visit: Visiting, form: Upload) -> Page:
    """Show what the file holds; nothing is stored yet."""
    try:
        text = _decoded(form.files["file"]) if form.files.get("file") else form.text("rows", "")
        return _page(visit, text, found=read(text))
    except DataError as error:
        return _page(visit, form.text("rows", ""), problem=error)


def store(visit: Visiting, form: Form) -> Page:
    """Store the prompts and outputs that were shown."""
    text, split = form.text("rows"), form.text("split", "train")
    try:
        if split not in get_args(Split):
            raise DataError("the split is not valid", expected=", ".join(get_args(Split)), got=repr(split[:20]))
        found = read(text)
        with visit.database.write() as connection:
            prompts = items.add_prompts(connection, (replace(row.prompt, split=cast("Split", split)) for row in found))
            outputs = items.add_responses(connection, (response for row in found for response in row.responses))
            events.record(
                connection,
                person_id=visit.person.id,
                action="upload",
                subject="prompts",
                subject_id=str(len(found)),
                after={"prompts": prompts, "outputs": outputs, "split": split},
            )
    except DataError as error:
        return _page(visit, text, problem=error)
    known = len(found) - prompts
    said = f"Stored {prompts} prompts and {outputs} outputs." + (f" {known} prompts were there already." if known else "")
    return visit.go("/batches", flash=said)


def read(text: str) -> list[Uploaded]:
    """The rows of an upload. Raises DataError that names the first row which cannot be read."""
    found: list[Uploaded] = []
    for row in _rows(text.removeprefix("\ufeff")):
        if len(found) == MOST_ROWS:
            raise DataError("the file is too long", expected=f"at most {MOST_ROWS:,} rows", next_step="upload it in parts")
        try:
            if row.problem is not None:
                raise BadRow(row.problem)
            found.append(_uploaded(row.value))
        except BadRow as error:
            raise DataError(
                f"row {row.line} cannot be read: {error}"[:300], next_step="correct the row, then upload again"
            ) from None
    if not found:
        expected = (
            'rows such as {"prompt": "…", "responses": ["…", "…"]}, or CSV with the columns prompt, response, response_2 …'
        )
        raise DataError("the upload is empty", expected=expected)
    return found


def _rows(text: str) -> Iterator[Row]:
    start = text.lstrip()[:1]
    if start == "{":
        return (row_of_text(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())
    return _rows_of_list(text) if start == "[" else _rows_of_table(text)


def _rows_of_list(text: str) -> Iterator[Row]:
    whole = row_of_text(1, text.strip())
    if not isinstance(whole.value, list):
        raise DataError(
            f"the file is not JSON: {whole.problem}"[:200], expected="one JSON object on each line, a JSON list, or CSV"
        )
    return (Row(number, value=value) for number, value in enumerate(whole.value, start=1))


def _rows_of_table(text: str) -> Iterator[Row]:
    for row in rows_of_table(io.StringIO(text, newline=""), Path("the file")):
        if not isinstance(row.value, dict):
            yield row
            continue
        cells = {_column(str(name)): cell for name, cell in row.value.items()}
        if "prompt" not in cells or len(cells) < len(row.value):
            yield Row(row.line, problem="it should have the columns prompt, response, response_2 …, each once")
        else:
            yield Row(row.line, value=cells)


def _column(name: str) -> str:
    """``Response 2`` is ``response_2``, and ``response`` is the first of them."""
    name = name.strip().lower().replace(" ", "_")
    return "response_1" if name == "response" else name


def _uploaded(value: object) -> Uploaded:
    """A row in the import format ``responses``, but without ranks, ratings and unknown keys. Raises BadRow."""
    row = dict(an_object(value))
    if "messages" in row:
        if "prompt" in row:
            raise BadRow("it should have either 'prompt' or 'messages'")
        row["prompt"] = row.pop("messages")
    parts = (
        [part for part in row.get("responses") or () if isinstance(part, dict)]
        if isinstance(row.get("responses"), list)
        else []
    )
    judged = next((key for each in (row, *parts) for key in each if _JUDGED.match(key)), None)
    if judged is not None:
        raise BadRow(f"the key {judged!r} is not allowed here: `heedful import responses` reads ranks and ratings")
    draft = read_responses(row, None)
    notes = [note for note in draft.notes if note != NO_RANKING]
    unused = next((note for note in notes if note.startswith(UNUSED)), None)
    if unused is not None:
        raise BadRow(f"the key {unused.removeprefix(UNUSED).split(chr(39))[1]!r} is unknown")
    prompt = next(record for record in draft.records if isinstance(record, Prompt))
    prompt = replace(prompt, language=optional_text(row, "language"))
    responses = tuple(record for record in draft.records if isinstance(record, Response))
    if problem := next(filter(None, map(unstorable, (prompt, *responses))), None):
        raise BadRow(problem)
    return Uploaded(prompt=prompt, responses=responses, notes=tuple(notes))


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise DataError("the file is not UTF-8", next_step="save it as UTF-8, then upload it again") from None


def _page(visit: Visit, text: str, *, found: list[Uploaded] | None = None, problem: DataError | None = None) -> Page:
    return visit.page(
        "console/batches/upload.html",
        status=200 if problem is None else 422,
        rows=text,
        found=found,
        outputs=sum(len(row.responses) for row in found or []),
        notes=Counter(note for row in found or [] for note in row.notes),
        shown=SHOWN,
        splits=get_args(Split),
        problem=problem,
    )
