"""The admin's page on rounds of feedback (SPEC 3.8): their decisions, a button that starts the next one, its progress."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from starlette.responses import Response

from heedful.errors import ConfigError, ConflictError
from heedful.labeling.database import events
from heedful.project.ended_rounds import ended_rounds, newest_round
from heedful.web.console.round_process import RoundProcess
from heedful.web.routing import Routes, Visit, Visiting


def routes(add: Routes) -> None:
    """The page and its button."""
    add.get("/admin/rounds", show_rounds, who="admin")
    add.post("/admin/rounds", start_round, who="admin")


def show_rounds(visit: Visiting) -> Response:
    """All rounds; while one is running, the page asks for its progress every two seconds."""
    return _page(visit)


def start_round(visit: Visiting) -> Response:
    """Start the next round, or continue the unfinished one."""
    running = _process(visit)
    if running is None:
        raise ConfigError("there is no project here", expected="an application over a project", got="none")
    number = next_round(running.project / "runs")
    try:
        with visit.database.write() as connection:
            events.record(connection, person_id=visit.person.id, action="start_round", subject="round", subject_id=number)
            running.start(number)
    except ConflictError as error:
        return _page(visit, status=409, problem=error)
    return visit.go("/admin/rounds", flash=f"Round {number} has been started.")


def next_round(runs: Path) -> int:
    """The round that the button starts or continues: the unfinished one, or the one after the last finished one."""
    return max(len(ended_rounds(runs)) + 1, newest_round(runs))


def _page(visit: Visit, *, status: int = 200, problem: ConflictError | None = None) -> Response:
    running = _process(visit)
    decided: list[Any] = []
    number = None
    if running is not None:
        number = next_round(running.project / "runs")
        results = running.project / "results.json"
        if results.is_file():
            decided = json.loads(results.read_text(encoding="utf-8")).get("rounds", [])
    return visit.page(
        "console/admin/rounds.html", status=status, rounds=decided, number=number, process=running, problem=problem
    )


def _process(visit: Visit) -> RoundProcess | None:
    """The application's process for rounds; None if there is no project."""
    found: RoundProcess | None = visit.request.app.state.round_process
    return found
