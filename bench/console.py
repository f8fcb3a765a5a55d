"""How long the console's pages take on a large database (bench/console_database.py makes one).

    python bench/console_database.py labels.sqlite
    python bench/console.py labels.sqlite --times 9

Each page is requested from the application itself, without a network. The first request is shown separately: it reads from the
disk, and agreement and quality compute what they keep for ten minutes. The last column is the median processor time, which
other work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import statistics
import time

from fastapi.testclient import TestClient
from sqlalchemy import func, select

from heedful.labeling.console import explorer
from heedful.labeling.database.connection import Database, open_database
from heedful.labeling.database.tables import assignment, prompt, task
from heedful.labeling.people import sessions
from heedful.web.app import create_app
from heedful.web.app_settings import Settings

LIMIT_MS = 300.0
RARE = "sesquipedalian"


def pages(prompt_id: str) -> list[str]:
    """Every page of the console that only reads, and the hard searches."""
    return [
        "/console",
        "/console/batches/1",
        "/console/agreement",
        "/console/agreement?batch=5",
        "/console/quality",
        "/console/people",
        "/console/screening",
        "/console/instructions",
        "/console/instructions/training/rank",
        "/console/instructions/training/rank/2",
        "/console/questions?show=all",
        "/console/surveys",
        "/console/data",
        f"/console/data?text={RARE}",
        "/console/data?text=mountain&use_case=extract&split=test",
        "/console/data?batch=3",
        "/console/data?kind=response",
        "/console/data?kind=response&batch=3",
        "/console/data?kind=demonstration&text=mountain+river",
        "/console/data?kind=ranking&labeler=training-05",
        "/console/data?kind=ranking&batch=20",
        "/console/data?kind=rating&use_case=extract&split=test",
        f"/console/prompts/{prompt_id}",
    ]


def measure(database: Database, times: int) -> bool:
    """Print a table and return whether every median is below the limit."""
    app = create_app(database, Settings(key=b"k" * 32, public_url="http://localhost", secure=False))
    with database.write() as connection:
        token = sessions.start(connection, 2).token
    with database.read() as connection:
        counts = {
            table.name: connection.scalar(select(func.count()).select_from(table)) for table in (prompt, task, assignment)
        }
        answered = select(task.c.prompt_id).join(assignment, assignment.c.task_id == task.c.id).where(task.c.kind == "rank")
        some = connection.execute(answered.limit(1)).scalar_one()
    print(", ".join(f"{number:,} {name}s" for name, number in counts.items()))
    client = TestClient(app, base_url="http://localhost", follow_redirects=False)
    client.cookies.set("heedful_session", token)
    print(f"{'page':60}{'first':>8}{'median':>8}{'slowest':>8}{'of CPU':>8}  ms")
    fast = True
    for page in pages(some):
        taken: list[float] = []
        worked: list[float] = []
        for _ in range(times + 1):
            started, busy = time.perf_counter(), time.process_time()
            answer = client.get(page)
            taken.append(1000 * (time.perf_counter() - started))
            worked.append(1000 * (time.process_time() - busy))
            assert answer.status_code == 200, (page, answer.status_code)
        median = statistics.median(taken[1:])
        fast &= median < LIMIT_MS
        numbers = (taken[0], median, max(taken[1:]), statistics.median(worked[1:]))
        print(f"{page:60}" + "".join(f"{number:8.0f}" for number in numbers), flush=True)
    _whole_search(database)
    return fast


def _whole_search(database: Database) -> None:
    """Search everything for a word that occurs once."""
    behind, num_pages, found, started = None, 0, 0, time.perf_counter()
    with database.read() as connection:
        while True:
            page = explorer.page(connection, explorer.Search(text=RARE), behind=behind)
            num_pages, found, behind = num_pages + 1, found + len(page.rows), page.next
            if behind is None:
                break
    seconds = time.perf_counter() - started
    print(f"a word that occurs once: {num_pages} pages to look through everything, {seconds:.1f} s, {found} found")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("where")
    parser.add_argument("--times", type=int, default=9)
    given = parser.parse_args()
    raise SystemExit(0 if measure(open_database(given.where), given.times) else 1)
