"""Remove records from a project's data whose answers were corrected or sent back after the export."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, select

from heedful.labeling.database.tables import superseded_answer
from heedful.project.data_folder import file_name
from heedful.project.files import locked, read_jsonl, write_jsonl_files


def remove_superseded(connection: Connection, data: Path) -> int:
    """Remove these demonstrations, rankings and ratings from the data folder; return how many. Raises StorageError.

    The database keeps the answers. Prompts that labelers wrote stay: responses may refer to them.
    """
    ids = {id for of_answer in connection.execute(select(superseded_answer.c.record_ids)).scalars() for id in of_answer}
    removed = 0
    with locked(data):
        kept: dict[str | Path, list[object]] = {}
        for path in (data / file_name(kind) for kind in ("demonstration", "ranking", "rating")):
            rows = [row for _, row in read_jsonl(path)] if ids and path.is_file() else []
            left = [row for row in rows if row["id"] not in ids]
            if len(left) < len(rows):
                kept[path] = left
                removed += len(rows) - len(left)
        write_jsonl_files(kept)
    return removed
