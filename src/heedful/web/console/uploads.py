"""Prompts with outputs that a researcher uploads on the page: read, shown, and stored once they say so.

Each row is one prompt with its outputs. JSON Lines (or a JSON list)::

    {"prompt": "Name a river.", "responses": ["The Rhine.", {"text": "The Danube.", "model": "mine"}]}
    {"messages": [{"role": "user", "content": "Hello"}], "responses": ["Hi!"]}

CSV: a column ``prompt`` and columns ``response``, ``response_2``, ``response 3`` ...
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

from starlette.responses import Response as Page

from heedful.conversation import prompt_turns, response_text, trimmed
from heedful.errors import DataError
from heedful.labeling.database import events
from heedful.labeling.queue import items
from heedful.labeling.queue.kinds import refuse_unstorable
from heedful.project.formats.rows import BadRow, an_object, new_prompt, new_response, optional_text, turns_of_messages
from heedful.records import Prompt, Response, Split
from heedful.web.routing import Form, Routes, Upload, Visit, Visiting

MOST_ROWS = 5_000
SHOWN = 5
"""Rows of the preview."""


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


def show(visit: Visiting) -> Page:
    """The form."""
    return _page(visit, "")


def preview(visit: Visiting, form: Upload) -> Page:
    """What the file holds; nothing is stored yet."""
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
    for number, row in _rows(text):
        if number > MOST_ROWS:
            raise DataError("the file is too long", expected=f"at most {MOST_ROWS:,} rows", next_step="upload it in parts")
        try:
            found.append(_uploaded(row))
        except BadRow as error:
            raise DataError(f"row {number} cannot be read: {error}", next_step="correct the row, then upload again") from None
    if not found:
        raise DataError("there is nothing in it", expected='rows such as {"prompt": "…", "responses": ["…", "…"]}')
    return found


def _rows(text: str) -> Iterator[tuple[int, object]]:
    text = text.removeprefix("\ufeff")
    if text.lstrip()[:1] not in ("{", "["):
        yield from _csv_rows(text)
        return
    if text.lstrip().startswith("["):
        yield from enumerate(_json(text, "the file"), start=1)
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, _json(line, f"row {number}")


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{what} is not JSON: {error}"[:200], expected="one JSON object on each line, a JSON list, or CSV"
        ) from None


def _csv_rows(text: str) -> Iterator[tuple[int, object]]:
    delimiter = max(",;\t", key=text.split("\n", 1)[0].count)
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    names = [name for name in reader.fieldnames or [] if name.lower().replace(" ", "_").startswith("response")]
    if "prompt" not in (reader.fieldnames or []) or not names:
        expected = "columns named prompt, response, response_2 …"
        raise DataError(
            "the first line names no columns to read", expected=expected, got=text.split("\n", 1)[0][:80] or "nothing"
        )
    try:
        for number, row in enumerate(reader, start=2):
            yield number, {"prompt": row["prompt"], "responses": [row[name] for name in names if row[name]]}
    except csv.Error as error:
        raise DataError(f"the file is not CSV: {error}") from None


def _uploaded(row: object) -> Uploaded:
    given = an_object(row)
    unknown = sorted(set(given) - {"prompt", "messages", "responses", "language"})
    if unknown:
        raise BadRow(f"the keys {', '.join(map(str, unknown))[:80]} are not known here")
    if ("prompt" in given) == ("messages" in given):
        raise BadRow("it should have either 'prompt' or 'messages'")
    said = given["prompt"] if "prompt" in given else given["messages"]
    turns = prompt_turns(turns_of_messages(said) if isinstance(said, list) else [("user", _text(said, "prompt"))])
    responses = given.get("responses")
    if not isinstance(responses, list) or not responses:
        raise BadRow("'responses' should be a list of texts")
    prompt = new_prompt(turns, language=optional_text(given, "language"))
    made: dict[str, Response] = {}
    for one in responses:
        text, model = (one.get("text"), one.get("model")) if isinstance(one, dict) else (one, None)
        if model is not None and not isinstance(model, str):
            raise BadRow("the model's name should be text")
        response = new_response(prompt, response_text(prompt.turns, trimmed(_text(text, "response"))), model)
        made[response.id] = response
    try:
        refuse_unstorable([prompt.text, *(response.text for response in made.values())], "the row")
    except DataError as error:
        raise BadRow(error.message) from None
    return Uploaded(prompt=prompt, responses=tuple(made.values()))


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise BadRow(f"the {what} should be text")
    return value


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
        shown=SHOWN,
        splits=get_args(Split),
        problem=problem,
    )
