"""Your data: what the playground and the public API keep about a person, as a file, and its deletion."""

from __future__ import annotations

import json

from starlette.responses import Response

from heedful.errors import DataError
from heedful.labeling.usage import consent, own_data
from heedful.web.public.withdrawals import clean_project
from heedful.web.routing import Form, Routes, Visit, Visiting


def routes(add: Routes) -> None:
    """One's own data."""
    add.get("/your-data", show, who="user")
    add.post("/your-data/download", download, who="user")
    add.post("/your-data/delete", delete, who="user")


def show(visit: Visiting) -> Response:
    """How much is stored, and what was taken back."""
    return _page(visit)


def download(visit: Visiting) -> Response:
    """Everything as JSON Lines."""
    with visit.database.read() as connection:
        rows = [json.dumps(row, ensure_ascii=False) + "\n" for row in own_data.everything(connection, visit.person.id)]
    headers = {"Content-Disposition": 'attachment; filename="your-data.jsonl"'}
    return Response("".join(rows).encode(errors="replace"), media_type="application/jsonl; charset=utf-8", headers=headers)


def delete(visit: Visiting, form: Form) -> Response:
    """Delete everything, if the box is ticked."""
    if not form.has("sure"):
        return _page(visit, DataError("nothing was deleted", expected="a tick that you are sure", got="none"))
    with visit.database.write() as connection:
        was = own_data.delete_everything(connection, visit.person.id)
    deleted = f"{_number(was.conversations, 'conversation')} and the texts of {_number(was.kept_texts, 'request')}"
    return visit.go("/your-data", flash=f"Deleted: {deleted}. {clean_project(visit)}")


def _number(number: int, of: str) -> str:
    return f"{number} {of}" if number == 1 else f"{number} {of}s"


def _page(visit: Visit, problem: DataError | None = None) -> Response:
    with visit.database.read() as connection:
        found = own_data.own_data(connection, visit.person.id)
        withdrawn = consent.withdrawn_by(connection, visit.person.id, limit=50)
    return visit.page(
        "keys/your_data.html",
        status=200 if problem is None else 422,
        found=found,
        withdrawn=withdrawn,
        trains=consent.makes_training_data(visit.person),
        labels=visit.may("labeler"),
        problem=problem,
    )
