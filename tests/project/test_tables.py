"""Files of rows: JSONL, CSV, TSV, Parquet."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from heedful.errors import DataError, MissingError
from heedful.project import files
from heedful.project.importing import import_file
from heedful.project.table_files import rows_of_any_file

ROWS = [{"prompt": 'Say "hello",\nin two lines', "owner": "ada"}, {"prompt": "Ünïcode 写一首诗"}]


def test_csv_and_tsv(tmp_path: Path) -> None:
    content = 'prompt,owner\n"Say ""hello"",\nin two lines",ada\nÜnïcode 写一首诗,\n'
    (tmp_path / "a.csv").write_text("\ufeff" + content, encoding="utf-8")
    rows = list(rows_of_any_file(tmp_path / "a.csv"))
    assert [row.value for row in rows] == ROWS
    assert [row.line for row in rows] == [2, 4]
    (tmp_path / "a.tsv").write_text("prompt\towner\nHello, you\tada\n", encoding="utf-8")
    assert [row.value for row in rows_of_any_file(tmp_path / "a.tsv")] == [{"prompt": "Hello, you", "owner": "ada"}]


def test_csv_rows_that_do_not_fit(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"prompt,owner\nfine,ada\ntoo,many,cells\nfew\nlatin \xe9,ada\n")
    rows = list(rows_of_any_file(tmp_path / "a.csv"))
    assert [row.problem is None for row in rows] == [True, False, False, False]
    assert "UTF-8" in str(rows[3].problem)


def test_json_and_gzip(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(ROWS), encoding="utf-8")
    with gzip.open(tmp_path / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in ROWS)
    for name in ("a.json", "a.jsonl.gz"):
        assert [row.value for row in rows_of_any_file(tmp_path / name)] == ROWS


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra prompts")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra prompts")
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert [(row.line, row.value) for row in rows_of_any_file(tmp_path / "a.parquet")] == [(1, ROWS[0]), (2, ROWS[1])]
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    with pytest.raises(DataError, match="Parquet"):
        list(rows_of_any_file(tmp_path / "b.parquet"))


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingError, match=r"heedful\[prompts\]"):
        list(rows_of_any_file(tmp_path / "a.parquet"))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_no_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no file"):
        list(rows_of_any_file(tmp_path / name))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_header_tells_what_separates_columns(tmp_path: Path, separator: str) -> None:
    lines = [["prompt", "owner"], ['"a, b; c\td\ne"', "ada"]]
    (tmp_path / "a.csv").write_text("\ufeff" + "\r\n".join(map(separator.join, lines)) + "\r\n", encoding="utf-8", newline="")
    assert [row.value for row in rows_of_any_file(tmp_path / "a.csv")] == [{"prompt": "a, b; c\td\ne", "owner": "ada"}]


@pytest.mark.parametrize("text", ['prompt,owner\n"never closed,ada\nx,y\n', "prompt,prompt\nx,y\n"])
def test_a_table_that_could_be_misread_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=r"a\.csv"):
        list(rows_of_any_file(tmp_path / "a.csv"))


def test_parquet_values_become_json_values(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra prompts")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra prompts")
    rows: list[Any] = [{"x": float("nan"), "l": [{"a": 1, "b": None}]}, {"x": float("inf")}, {"x": 1.5, "y": b"\x00"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows, pyarrow.schema(_schema(pyarrow))), tmp_path / "a.parquet")
    got = list(rows_of_any_file(tmp_path / "a.parquet"))
    assert got[0].value == {"l": [{"a": 1}]}
    assert [row.problem for row in got[1:]] == ["an infinite number", "binary data where text is expected"]


def _schema(pyarrow: Any) -> list[Any]:
    pair = pyarrow.struct([("a", pyarrow.int64()), ("b", pyarrow.int64())])
    return [("x", pyarrow.float64()), ("y", pyarrow.binary()), ("l", pyarrow.list_(pair))]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_line_that_is_too_long_is_one_bad_row_and_is_never_held_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(files, "LONGEST_LINE", 100)
    lines = [b'{"a": 1}', b'{"a": "' + b"x" * 350 + b'"}', b'{"a": 2}', b'"' + b"x" * 97 + b'"', b'{"a": "' + b"x" * 500]
    content = b"\n".join(lines)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    rows = list(rows_of_any_file(tmp_path / name))
    assert [row.line for row in rows] == [1, 2, 3, 4, 5]
    assert [row.problem for row in rows] == [None, "a line of more than 64 MiB", None, None, "a line of more than 64 MiB"]
    assert max(len(row.raw) for row in rows) < 250


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_table_in_utf16_is_refused_by_its_header(tmp_path: Path, encoding: str) -> None:
    """Excel's "Unicode text"."""
    (tmp_path / "rows.csv").write_bytes("prompt,response\nWhat?,That.\n".encode(encoding))
    for format in ("alpaca", "auto", "responses"):
        with pytest.raises(DataError, match=r"rows\.csv is not UTF-8") as caught:
            import_file(format, tmp_path / "rows.csv", tmp_path / "data")
        assert caught.value.where == f"{tmp_path / 'rows.csv'}:1"
