from __future__ import annotations

import gzip
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.quick import takes_less_than

from heedful.conversation import turns_of
from heedful.errors import DataError, MissingError, StorageError
from heedful.project.data_folder import Records, file_name, record_from_json, record_to_json
from heedful.project.files import append_jsonl, read_jsonl, write_atomically, write_jsonl
from heedful.records import Demonstration, Prompt, Ranking, Rating, Response


@contextmanager
def disk_with_room_for(num_bytes: int) -> Iterator[None]:
    """A real refusal in the middle of a write: the system lets no file grow past the limit."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def small() -> Records:
    return Records.of(
        [
            Prompt(id="p", turns=turns_of("Name a river.\n"), use_case="open_qa", user="u1", metadata={"topic": "rivers"}),
            Prompt(id="q", turns=turns_of("Name a hill.\n"), split="test"),
            Response(id="a", prompt_id="p", text="The Rhine.", model="human"),
            Response(id="b", prompt_id="p", text="", finished=False),
            Response(id="c", prompt_id="q", text="Ben"),
            Demonstration(id="d", prompt_id="p", text="The Rhône – “Rhône”.", labeler="anna"),
            Ranking(id="k", prompt_id="p", response_ids=("b", "a"), ranks=(2, 1), labeler="anna"),
            Rating(id="g", prompt_id="p", response_id="a", labeler="anna", overall=7, flags={"hallucination": False}),
        ]
    )


# ---------------------------------------------------------------------------------------------------- writing


def test_writing_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "f.txt"
    write_atomically(path, "old")
    write_atomically(path, b"new")
    assert path.read_text() == "new"
    assert names(path.parent) == ["f.txt"]


def test_a_written_file_can_be_read_by_others_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "f", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o644


def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    write_jsonl(path, [1])
    with disk_with_room_for(1000), pytest.raises(StorageError) as caught:
        write_jsonl(path, ["x" * 100] * 1000)
    assert caught.value.exit_code == 1
    assert str(path) in str(caught.value)
    assert "free some space" in str(caught.value)
    assert names(tmp_path) == ["f.jsonl"]
    assert list(read_jsonl(path)) == [(1, 1)]


def test_a_folder_that_refuses_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write_atomically(tmp_path / "file" / "f", "x")


def test_an_error_in_the_rows_leaves_the_old_file(tmp_path: Path) -> None:
    def rows() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    write_jsonl(tmp_path / "f.jsonl", [0])
    with pytest.raises(KeyboardInterrupt):
        write_jsonl(tmp_path / "f.jsonl", rows())
    assert names(tmp_path) == ["f.jsonl"]
    assert list(read_jsonl(tmp_path / "f.jsonl")) == [(1, 0)]


def test_the_file_is_flushed_to_the_disk_before_it_is_renamed_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    fsync, rename = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        happened.append("fsync " + ("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file"))
        fsync(descriptor)

    def note_rename(source: Any, target: Any) -> None:
        happened.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_rename)
    write_atomically(tmp_path / "f", "x")
    assert happened == ["fsync file", "rename", "fsync folder"]


def test_a_link_keeps_pointing_at_the_file_that_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_atomically(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


@pytest.mark.parametrize("name", ["f.jsonl", "f.jsonl.gz"])
def test_rows_are_read_back_with_their_lines(tmp_path: Path, name: str) -> None:
    rows = [{"a": "Größe \u2028 \n"}, [1, None], "x"]
    write_jsonl(tmp_path / name, rows)
    assert [row for _, row in read_jsonl(tmp_path / name)] == rows
    assert [line for line, _ in read_jsonl(tmp_path / name)] == [1, 2, 3]
    assert ((tmp_path / name).read_bytes()[:2] == b"\x1f\x8b") == name.endswith(".gz")


def test_nan_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_jsonl(tmp_path / "f.jsonl", [float("nan")])
    assert names(tmp_path) == []


def test_appending_adds_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "f.jsonl"
    append_jsonl(path, [1])
    append_jsonl(path, [2, 3])
    assert path.read_text() == "1\n2\n3\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [('{"a": 1}\n{"a":', '{"a": 1}\n9\n'), ('{"a": 1}', '{"a": 1}\n9\n'), ('{"a"', "9\n"), ("", "9\n")],
)
def test_appending_mends_a_last_line_that_a_crash_cut(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text(before)
    append_jsonl(path, [9])
    assert path.read_text() == after


def test_appending_to_a_full_disk_adds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    append_jsonl(path, [1])
    with disk_with_room_for(1000), pytest.raises(StorageError):
        append_jsonl(path, ["x" * 100] * 1000)
    assert path.read_text() == "1\n"


# ---------------------------------------------------------------------------------------------------- reading


def test_empty_lines_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}')
    assert list(read_jsonl(tmp_path / "f.jsonl")) == [(1, {"a": 1}), (3, {"a": 2})]


@pytest.mark.parametrize("bad", [b'{"a": 1', b"\xff", b'{"a": NaN}', b"[" * 100_000])
def test_a_bad_line_is_named_with_its_file(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(b"1\n" + bad + b"\n")
    with pytest.raises(DataError) as caught:
        list(read_jsonl(path))
    assert caught.value.where == f"{path}:2"


def test_a_file_that_is_not_there_or_not_whole(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"no file f.jsonl"):
        list(read_jsonl(tmp_path / "f.jsonl"))
    with pytest.raises(MissingError, match="a folder"):
        list(read_jsonl(tmp_path))
    (tmp_path / "f.jsonl.gz").write_bytes(gzip.compress(b"1\n" * 1000)[:-9])
    with pytest.raises(DataError, match="whole text or gzip"):
        list(read_jsonl(tmp_path / "f.jsonl.gz"))


# ---------------------------------------------------------------------------------------------------- records


def test_every_record_is_the_same_after_a_trip_through_json() -> None:
    for record in small().all():
        kind = type(record).__name__.lower()
        assert record_from_json(kind, json.loads(json.dumps(record_to_json(record)))) == record  # type: ignore[arg-type]


def test_a_ranking_as_json() -> None:
    assert record_to_json(small().rankings["k"]) == {
        "id": "k",
        "prompt_id": "p",
        "response_ids": ["b", "a"],
        "ranks": [2, 1],
        "labeler": "anna",
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labler": "anna"}, ["'labler' is not a key of a ranking", "did you mean 'labeler'?"]),
        ({"ranks": [1, "2"]}, ["'ranks'", "a list of int"]),
        ({"ranks": [1, True]}, ["'ranks'"]),
        ({"response_ids": "ba"}, ["'response_ids'", "a list of str"]),
        ({"prompt_id": None}, ["'prompt_id'", "None"]),
        ({"ranks": [1]}, ["2 responses and 1 ranks"]),
    ],
)
def test_a_row_that_is_no_record_is_explained(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        record_from_json("ranking", record_to_json(small().rankings["k"]) | change, where="f:3")
    for word in [*words, "f:3"]:
        assert word in str(caught.value)


def test_records_are_the_same_after_a_trip_through_a_folder(tmp_path: Path) -> None:
    small().save(tmp_path / "data")
    assert Records.load(tmp_path / "data") == small()
    assert names(tmp_path / "data") == [
        "demonstrations.jsonl",
        "prompts.jsonl",
        "rankings.jsonl",
        "ratings.jsonl",
        "responses.jsonl",
    ]


def test_a_folder_without_files_holds_nothing_and_no_folder_is_an_error(tmp_path: Path) -> None:
    assert Records.load(tmp_path) == Records()
    with pytest.raises(MissingError, match="no data folder"):
        Records.load(tmp_path / "none")


BROKEN = [
    ("demonstration", {"id": "d", "prompt_id": "none", "text": "x", "labeler": "l"}, "the prompt 'none', which is not there"),
    ("response", {"id": "r", "prompt_id": "none", "text": "x"}, "the prompt 'none', which is not there"),
    (
        "ranking",
        {"id": "k2", "prompt_id": "p", "response_ids": ["a", "zz"], "ranks": [1, 2], "labeler": "l"},
        "the response 'zz', which is not there",
    ),
    (
        "ranking",
        {"id": "k2", "prompt_id": "p", "response_ids": ["a", "c"], "ranks": [1, 2], "labeler": "l"},
        "the response 'c', which belongs to the prompt 'q', not 'p'",
    ),
    ("rating", {"id": "g2", "prompt_id": "p", "response_id": "zz", "labeler": "l", "overall": 1}, "the response 'zz'"),
    ("rating", {"id": "g2", "prompt_id": "q", "response_id": "a", "labeler": "l", "overall": 1}, "belongs to the prompt 'p'"),
]


@pytest.mark.parametrize(("kind", "row", "got"), BROKEN)
def test_a_broken_reference_is_named_with_file_line_and_id(tmp_path: Path, kind: Any, row: dict[str, Any], got: str) -> None:
    records = small()
    records.demonstrations.clear()
    records.save(tmp_path)
    path = tmp_path / file_name(kind)
    append_jsonl(path, [row])
    with pytest.raises(DataError) as caught:
        Records.load(tmp_path)
    assert got in str(caught.value.got)
    assert repr(row["id"]) in caught.value.message
    assert caught.value.where == f"{path}:{len(path.read_text().splitlines())}"
    assert caught.value.next_step

    broken = Records.of([*records.all(), record_from_json(kind, row)])
    with pytest.raises(DataError, match=got):
        broken.save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_an_id_twice_is_named_with_both_lines(tmp_path: Path) -> None:
    small().save(tmp_path)
    append_jsonl(tmp_path / "responses.jsonl", [{"id": "a", "prompt_id": "q", "text": "x"}])
    with pytest.raises(DataError, match="two responses with the id 'a'") as caught:
        Records.load(tmp_path)
    assert caught.value.where == f"{tmp_path / 'responses.jsonl'}:4"
    assert "first on line 1" in str(caught.value.got)
    with pytest.raises(DataError, match="two prompts"):
        Records.of([Prompt(id="p", turns=turns_of("x")), Prompt(id="p", turns=turns_of("y"))])


def test_a_full_disk_while_saving_leaves_all_old_files(tmp_path: Path) -> None:
    small().save(tmp_path)
    more = [Rating(id=f"g{i}", prompt_id="p", response_id="a", labeler="anna", overall=1) for i in range(200)]
    bigger = Records.of([*small().all(), Prompt(id="r", turns=turns_of("One more.\n")), *more])
    with disk_with_room_for(2000), pytest.raises(StorageError):  # only the last file is that long
        bigger.save(tmp_path)
    assert Records.load(tmp_path) == small()
    assert len(names(tmp_path)) == 5


@pytest.mark.parametrize("renames", range(5))
def test_a_crash_between_two_files_leaves_records_that_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    small().save(tmp_path)
    added = [
        Prompt(id="n", turns=turns_of("New.\n")),
        Response(id="na", prompt_id="n", text="x"),
        Demonstration(id="nd", prompt_id="n", text="x", labeler="l"),
        Ranking(id="nk", prompt_id="n", response_ids=("na",), ranks=(1,), labeler="l"),
        Rating(id="ng", prompt_id="n", response_id="na", labeler="l", overall=1),
    ]
    rename, done = os.replace, []

    def crash(source: Any, target: Any) -> None:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(target)
        rename(source, target)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        Records.of([*small().all(), *added]).save(tmp_path)
    assert len(list(Records.load(tmp_path).all())) == len(list(small().all())) + renames


def test_a_hundred_thousand_records_load_and_save_in_seconds(tmp_path: Path) -> None:
    records = Records()
    for i in range(25_000):
        records.prompts[f"p{i}"] = Prompt(id=f"p{i}", turns=turns_of(f"Prompt {i}\n"))
        records.responses[f"a{i}"] = Response(id=f"a{i}", prompt_id=f"p{i}", text="yes")
        records.responses[f"b{i}"] = Response(id=f"b{i}", prompt_id=f"p{i}", text="no")
        records.rankings[f"k{i}"] = Ranking(
            id=f"k{i}", prompt_id=f"p{i}", response_ids=(f"a{i}", f"b{i}"), ranks=(1, 2), labeler="l"
        )
    # About 3 s of one slow core together; a check that walks all records for each would take minutes.
    takes_less_than(20, lambda: records.save(tmp_path))
    assert takes_less_than(20, lambda: Records.load(tmp_path)) == records
