"""Take what people wrote since the last round from the labeling database into the project's records: prompts, edits, votes.

The sources are the playground's conversations and the public API's log. Only what their owners allow is taken, and what they
have withdrawn is erased first. Each prompt gets its owner's split, so nothing is trained on a held-out owner's prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from sqlalchemy import Connection

from heedful.labeling.database.locating import if_there
from heedful.labeling.usage.usage_export import playground_rows
from heedful.project.files import write_jsonl
from heedful.project.importing import import_file
from heedful.project.project import Project
from heedful.prompts.intake import import_prompts
from heedful.prompts.row_sources import of_database
from heedful.prompts.withdrawing import apply_withdrawals


def take_in(project: Project, console: Console) -> None:
    """Add new prompts, edits and votes to the records. A second call adds nothing. Raises DataError, StorageError."""
    with if_there(project.folder) as database:
        if database is None:
            return
        for line in apply_withdrawals(database, project, alone=True).lines():
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        with of_database(database) as rows:
            if any(True for _ in rows.rows()):
                report = import_prompts("api", rows, project.data)
                left_out = ", ".join(f"{count:,} {reason}" for reason, count in report.left_out.items())
                console.print(
                    f"prompts of the playground and the API: {report.added:,} new, {report.already_there:,} known already"
                    + (f"; left out: {left_out}" if left_out else ""),
                    highlight=False,
                )
        with database.read() as connection:
            said = list(_feedback(connection))
    if said:
        _import(project, said, console)


def _feedback(connection: Connection) -> Iterator[Mapping[str, Any]]:
    """Edits and votes as records. Each record comes after those that it names."""
    rows = list(playground_rows(connection))
    yield from (row for row in rows if row["kind"] != "annotation")
    yield from votes_as_rankings(rows)


def votes_as_rankings(rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """A ranking for each vote that prefers an answer. The vote does not compare the other answers, so they are tied.

    A vote for a tie, or for "all answers are bad", is left out, because it contains no comparison.
    """
    rows = list(rows)
    responses: dict[str, list[str]] = {}
    for row in rows:
        if row["kind"] == "response" and row.get("model") != "human":
            responses.setdefault(row["prompt_id"], []).append(row["id"])
    for row in rows:
        if row.get("task_kind") != "vote" or row["answer"]["choice"] != "answer":
            continue
        shown = responses[row["prompt_id"]]
        preferred = f"{row['prompt_id']}-{row['answer']['position']}"
        if preferred in shown and len(shown) > 1:
            yield {
                "kind": "ranking",
                "id": row["id"],
                "prompt_id": row["prompt_id"],
                "response_ids": shown,
                "ranks": [1 if one == preferred else 2 for one in shown],
                "labeler": row["labeler"],
                "phase": row["phase"],
                "metadata": {**row["metadata"], "gave_away": row["answer"]["gave_away"]},
            }


def _import(project: Project, rows: Iterable[Mapping[str, Any]], console: Console) -> None:
    with TemporaryDirectory() as folder:  # the import reads a file
        file = Path(folder) / "playground.jsonl"
        write_jsonl(file, rows)
        report = import_file("heedful", file, project.data)
    added = ", ".join(f"{count:,} {kind}s" for kind, count in report.added.items() if count)
    console.print(f"edits and votes of the playground: {added or 'nothing new'}", highlight=False)
