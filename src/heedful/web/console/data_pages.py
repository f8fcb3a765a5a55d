"""The console's data explorer: search, a prompt's whole record, export."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast
from urllib.parse import urlencode

from starlette.responses import Response, StreamingResponse

from heedful.errors import DataError
from heedful.labeling.console import explorer, queue_progress
from heedful.labeling.console.explorer import KINDS, Kind, Search
from heedful.labeling.console.prompt_record import prompt_record
from heedful.labeling.database import events
from heedful.labeling.database.connection import Database
from heedful.labeling.exchange.label_records import record_of
from heedful.labeling.queue.items import stored_turns
from heedful.records import USE_CASE_SHARES
from heedful.web.routing import Form, Routes, Visiting

FIELDS = ("kind", "text", "use_case", "source", "split", "labeler", "batch", "since", "until")
"""Fields of the search form; the page's address holds those that are not empty."""


def routes(add: Routes) -> None:
    """Search, records, export."""
    add.get("/console/data", show_data, who="researcher")
    add.post("/console/data/export", export, who="researcher")
    add.get("/console/prompts/{prompt_id:path}", show_prompt, who="researcher")


def search_of(asked: Mapping[str, str]) -> Search:
    """A search from the fields of its form; empty fields are ignored. Raises DataError."""
    given = {name: asked.get(name, "").strip() for name in FIELDS}
    batch = given["batch"]
    if batch and not (batch.isdecimal() and len(batch) < 10):
        raise DataError("that is not a batch", expected="a batch's number", got=batch[:20])
    kind = given["kind"] or "prompt"
    return Search(
        kind=cast("Kind", kind),
        text=given["text"],
        use_case=given["use_case"] or None,
        source=given["source"] or None,
        split=given["split"] or None,
        # The form sends this field for every kind, but only some kinds have it.
        labeler=(given["labeler"] or None) if kind not in ("prompt", "response") else None,
        batch_id=int(batch) if batch else None,
        since=start_of(given["since"]),
        until=start_of(given["until"], days=1),
    )


def start_of(text: str, days: int = 0) -> float | None:
    """The first moment of a UTC day, or of the day ``days`` later."""
    if not text:
        return None
    try:
        day = date.fromisoformat(text) + timedelta(days=days)
        return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        raise DataError("that is not a date", expected="year-month-day, such as 2026-01-31", got=text[:20]) from None


def show_data(visit: Visiting) -> Response:
    """A page of search results, newest first."""
    asked = visit.request.query_params
    search, behind = search_of(asked), _behind(asked.get("behind", ""))
    with visit.database.read() as connection:
        page = explorer.page(connection, search, behind=behind)
        batches = queue_progress.batch_names(connection)
    fields = {name: asked.get(name, "").strip() for name in FIELDS}
    kept = {name: value for name, value in fields.items() if value}
    following = None
    if page.next is not None:
        following = "/console/data?" + urlencode(kept | {"behind": f"{page.next[0]!r} {page.next[1]}"})
    return visit.page(
        "console/data.html",
        search=search,
        page=page,
        fields=fields,
        kinds=KINDS,
        use_cases=list(USE_CASE_SHARES),
        batches=batches,
        first="/console/data?" + urlencode(kept) if behind else None,
        following=following,
    )


def _behind(text: str) -> tuple[float, str] | None:
    if not text:
        return None
    at, _, id = text.partition(" ")
    try:
        return float(at), id
    except ValueError:
        raise DataError("this page does not exist", expected="a link from the page before", got=text[:40]) from None


def show_prompt(visit: Visiting, prompt_id: str) -> Response:
    """A prompt with its outputs, answers and events."""
    with visit.database.read() as connection:
        found = prompt_record(connection, prompt_id)
    places = {output["id"]: number for number, output in enumerate(found.outputs, start=1)}
    turns = stored_turns(found.prompt["text"], found.prompt["turns"])
    return visit.page("console/prompt.html", found=found, turns=turns, places=places)


# ---------------------------------------------------------------------------------------------------- export


def export(visit: Visiting, form: Form) -> Response:
    """All results of a search as JSONL; the audit log records who exported what."""
    asked = {name: form.text(name, "") for name in FIELDS}
    search = search_of(asked)
    with visit.database.write() as connection:
        events.record(
            connection,
            person_id=visit.person.id,
            action="export",
            subject=search.kind,
            subject_id="*",
            after={name: value for name, value in asked.items() if value},
        )
    name = f"{search.kind}s-{time.strftime('%Y-%m-%d', time.gmtime())}.jsonl"
    return StreamingResponse(
        _lines(visit.database, search),
        media_type="application/x-ndjson",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _lines(database: Database, search: Search) -> Iterator[str]:
    with database.read() as connection:
        for row in explorer.every_row(connection, search):
            yield json.dumps(_record(search.kind, row), ensure_ascii=False) + "\n"


def _record(kind: Kind, row: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": kind, **record_of(kind, row)}
