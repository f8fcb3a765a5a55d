"""Files as they come: damaged, cut off, in several encodings. `heedful evaluate score` names what it cannot score, or says one
clear thing and exits with 2.

Every sound row here is answered without a fault. So each mean is known, and a damaged row that were scored would lower it.
"""

from __future__ import annotations

import gzip
import json
import math
import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from heedful import cli
from heedful.cli.evaluate_verbs import EvaluateScore
from heedful.errors import UserError
from heedful.evaluate.scoring import METRICS, score_samples
from heedful.evaluate.scoring.drop import drop_scores

GOOD: dict[str, Any] = {"response": "the city of Rome", "references": ["the city of Rome"], "logprobs": [-1, -2], "answer": 0}
SHARE = math.e / (1 + math.e)
ENTROPY = -(SHARE * math.log2(SHARE) + (1 - SHARE) * math.log2(1 - SHARE))
HEADER = b"response,references,logprobs,answer\n"
ROW = b'the city of Rome,the city of Rome,"[-1, -2]",0\n'
LINE = json.dumps(GOOD).encode() + b"\n"
TEXTS = tuple(metric for metric in METRICS if metric not in ("choice", "entropy"))


def changed(**cells: Any) -> bytes:
    """A row of JSONL with other cells."""
    return json.dumps(GOOD | cells).encode() + b"\n"


def cells(response: str = "the city of Rome", references: str = "the city of Rome", logprobs: str = '"[-1, -2]"') -> bytes:
    """A row of CSV with other cells."""
    return f"{response},{references},{logprobs},0\n".encode()


def scored(path: Path, metric: Any, numbers: Path | None = None) -> tuple[int, str]:
    """Exit code and output of the verb. Any error but the user's is a failure: the command would print a traceback."""
    said = StringIO()
    try:
        with redirect_stdout(said):
            EvaluateScore(task=metric, file=path, json=numbers).run(Console(quiet=True))
    except UserError as error:
        return error.exit_code, f"{said.getvalue()}{error}"
    return 0, said.getvalue()


def checked(path: Path, metric: str, bad: Sequence[int], num_good: int) -> None:
    """Score the file; rows ``bad`` (by line) are named, all others are scored without a fault."""
    code, said = scored(path, metric, path.parent / "numbers.json")
    assert code == 0, said
    found = json.loads((path.parent / "numbers.json").read_text())
    assert [row["line"] for row in found["not_scored"]] == list(bad), found["not_scored"]
    assert (found["rows"], found["scored"]) == (num_good + len(bad), num_good)
    assert f"rows: {found['rows']:,}, scored {num_good:,}, not scored {len(bad):,}" in said
    for line in bad[:5]:
        assert str(line) in said
    value = {"entropy": ENTROPY, "bleu": 100}.get(metric, 1)
    assert {name: mean["value"] for name, mean in found["means"].items()} == {
        name: pytest.approx(value, rel=1e-5) for name in found["means"]
    }
    assert found["means"]


def refused(path: Path, metric: str, *words: str) -> None:
    """One message that says what is wrong, and exit code 2."""
    code, said = scored(path, metric)
    assert code == 2, said
    for word in words:
        assert word in said, said


# ---------------------------------------------------------------------------------------------------- whole lines

BIG = "word " * 2_000_000
DAMAGED: dict[str, tuple[str, bytes, list[int], int]] = {
    # name: (file, content, lines that are named, rows that are scored)
    "BOM": ("s.jsonl", b"\xef\xbb\xbf" + LINE * 2, [], 2),
    "BOM, CSV": ("s.csv", b"\xef\xbb\xbf" + HEADER + ROW * 2, [], 2),
    "BOM in the middle": ("s.jsonl", LINE + b"\xef\xbb\xbf" + LINE, [2], 1),
    "two files in one": ("s.csv", HEADER + ROW + HEADER + ROW, [3], 2),
    "two files with BOM in one": ("s.csv", HEADER + ROW + b"\xef\xbb\xbf" + HEADER + ROW, [3], 2),
    "Latin-1 in the middle": ("s.jsonl", LINE + LINE.replace(b"Rome", b"M\xe2con") + LINE, [2], 2),
    "Latin-1 in the middle, CSV": ("s.csv", HEADER + ROW + ROW.replace(b"Rome", b"M\xe2con") + ROW, [3], 2),
    "windows-1252 quotes": ("s.csv", HEADER + ROW.replace(b"the city", b"\x93the city\x94", 1) + ROW, [2], 1),
    "Shift-JIS in one row": ("s.csv", HEADER + ROW + ROW.replace(b"Rome", "東京".encode("shift-jis")), [3], 1),
    "UTF-16 in one row": ("s.jsonl", LINE + LINE.decode().rstrip("\n").encode("utf-16-le") + b"\n" + LINE, [2], 2),
    "UTF-8 cut inside a character": ("s.jsonl", LINE + LINE.replace(b"Rome", "é".encode()[:1]), [2], 1),
    "cut off": ("s.jsonl", LINE * 3 + LINE[:30], [4], 3),
    "cut off, CSV": ("s.csv", HEADER + ROW * 3 + ROW[:20], [5], 3),
    "cut off in quotes": ("s.csv", HEADER + ROW * 3 + ROW[:-8], [5], 3),
    "no line end at the end": ("s.csv", HEADER + ROW + ROW[:-1], [], 2),
    "NUL bytes": ("s.jsonl", LINE + b"\0" * 300 + b"\n" + LINE.replace(b"Rome", b"Ro\0me") + LINE, [2, 3], 2),
    "NUL bytes, CSV": ("s.csv", HEADER + ROW + b"\0" * 300 + b"\n" + ROW.replace(b"Rome", b"Ro\0me") + ROW, [3, 4], 2),
    "quotes never closed": ("s.csv", HEADER + ROW + b'"' + ROW + ROW * 2, [3], 3),
    "quotes in the middle": ("s.csv", HEADER + ROW + b'"the" city' + ROW[8:] + ROW, [3], 2),
    "too few cells": ("s.csv", HEADER + ROW + b"Rome\n" + b"Rome,Rome\n" + ROW, [3, 4], 2),
    "too many cells": ("s.csv", HEADER + ROW + ROW[:-1] + b",more\n" + ROW, [3], 2),
    "more columns": ("s.csv", HEADER[:-1] + b",id,note\n" + (ROW[:-1] + b',7,"a, b"\n') * 2, [], 2),
    "keys twice": ("s.jsonl", LINE + LINE[:-2] + b', "response": "x"}\n' + LINE, [2], 2),
    "CRLF": ("s.csv", (HEADER + ROW * 2).replace(b"\n", b"\r\n"), [], 2),
    "CRLF, JSONL": ("s.jsonl", (LINE * 2).replace(b"\n", b"\r\n"), [], 2),
    "CR": ("s.csv", (HEADER + ROW * 2).replace(b"\n", b"\r"), [], 2),
    "CR inside a row": ("s.csv", HEADER + ROW + ROW.replace(b"city", b"ci\rty") + ROW, [3], 2),
    "CRLF and LF": ("s.csv", HEADER + ROW + ROW.replace(b"\n", b"\r\n") + ROW, [], 3),
    "empty lines": ("s.jsonl", b"\n\n" + LINE + b"   \n" + LINE + b"\n\n", [], 2),
    "a line of 10 MB": ("s.jsonl", LINE + json.dumps(GOOD | {"prompt": BIG}).encode() + b"\n" + LINE, [], 3),
    "a line of 10 MB that is no JSON": ("s.jsonl", LINE + b"{" + BIG.encode() + b"\n" + LINE, [2], 2),
    "a cell of 10 MB": ("s.csv", HEADER[:-1] + b",prompt\n" + ROW[:-1] + b',"' + BIG.encode() + b'"\n', [], 1),
    "nested too deep": ("s.jsonl", LINE + b'{"response": ' + b"[" * 100_000 + b"\n" + LINE, [2], 2),
    "an array": ("s.json", b"[" + b",".join([LINE] * 3) + b"]", [], 3),
    "an array in JSONL": ("s.jsonl", b"[\n" + b",".join([LINE] * 3) + b"]\n", [], 3),
    "an array with other things": ("s.json", b"[" + LINE + b', 7, "x", null, [1],\n' + LINE + b"]", [2, 2, 2, 2], 2),
    "not objects": ("s.jsonl", LINE + b'7\n"x"\nnull\n[1]\n' + LINE, [2, 3, 4, 5], 2),
    "Infinity": ("s.jsonl", LINE + LINE.replace(b"-2", b"-Infinity") + LINE.replace(b"-2", b"NaN") + LINE, [2, 3], 2),
    "1e999": ("s.jsonl", LINE + LINE.replace(b"-2", b"-1e999") + LINE, [2], 2),
    "gz": ("s.jsonl.gz", gzip.compress(LINE * 2), [], 2),
    "gz without its ending": ("s.jsonl", gzip.compress(LINE * 2), [], 2),
    "gz, CSV": ("s.csv.gz", gzip.compress(HEADER + ROW * 2 + b"x\n"), [4], 2),
    "TSV": ("s.tsv", (HEADER + ROW).replace(b"[-1, -2]", b"[-1; -2]").replace(b",", b"\t").replace(b";", b","), [], 1),
}


@pytest.mark.parametrize(
    ("name", "metric"),
    # 10 MB are read in the same way for every task.
    [(name, metric) for name in DAMAGED for metric in (("squad_v2", "entropy") if "10 MB" in name else METRICS)],
)
def test_damaged_lines_are_named_and_the_others_scored(name: str, metric: str, tmp_path: Path) -> None:
    file, content, bad, num_good = DAMAGED[name]
    path = tmp_path / file
    path.write_bytes(content)
    checked(path, metric, bad, num_good)


# ---------------------------------------------------------------------------------------------------- cells


@pytest.mark.parametrize("metric", TEXTS)
def test_cells_that_are_no_text_are_named(metric: str, tmp_path: Path) -> None:
    """A list that was cut off is the nastiest: read as a text it would score, and score wrong."""
    rows = {
        2: changed(response=None),
        3: changed(response=1.5),
        4: changed(response=True),
        5: changed(response={"text": "the city of Rome"}),
        6: changed(response="\ud800"),
        7: changed(references=["\udfff"]),
        8: changed(references=[["the city of Rome", ["x"]]]),
        9: changed(references='["the city of Rome", "Mil'),
        10: changed(references="['the city of Rome', 'Mil"),
        11: changed(references='{"answer": "the city of Rome"}'),
        12: changed(references="['the city of Rome', 'the city of Rome']"),  # as Python prints a list: scored
        13: changed(references={"text": "the city of Rome", "answer_start": 1}),  # as SQuAD and QuAC have it
        14: changed(references=[{"text": "the city of Rome", "answer_start": 3}]),
    }
    path = tmp_path / "s.jsonl"
    path.write_bytes(LINE + b"".join(rows.values()))
    if metric == "drop":  # its own answers have number, spans and date
        checked(path, metric, [*range(2, 12), 13, 14], 2)
    else:
        checked(path, metric, range(2, 12), 4)


def test_cells_of_csv(tmp_path: Path) -> None:
    """Lists as JSON and as Python prints them; what pandas and numpy print is named."""
    path = tmp_path / "s.csv"
    path.write_bytes(
        HEADER
        + cells(references='"[""the city of Rome"", ""Milan""]"')  # 2
        + cells(references="\"['the city of Rome', 'Milan']\"")
        + cells(references='"{""text"": [""the city of Rome""], ""answer_start"": [5]}"')
        + cells(references="\"{'text': ['the city of Rome'], 'answer_start': [5]}\"")
        + cells(references="\"{'text': array(['the city of Rome'], dtype=object)}\"")  # 6
        + cells(references="['the city of Rome' 'Milan'")
        + cells(references='"[""the city of Rome"", ""Mi"')
        + cells(references="[1] the city of Rome", response="[1] the city of Rome")  # 9: a text
        + cells(references="{the} city of Rome", response="{the} city of Rome")
    )
    checked(path, "accuracy", [6, 7, 8], 6)


def test_log_probabilities_of_csv(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_bytes(
        HEADER
        + ROW
        + cells(logprobs='"[nan, -1]"')  # 3
        + cells(logprobs='"[NaN, -1]"')
        + cells(logprobs="[-1.0]")
        + cells(logprobs="-1.0")
        + cells(logprobs="")
        + cells(logprobs='"[None, -1]"')
        + cells(logprobs='"[""-1"", ""-2""]"')
        + cells(logprobs='"[-1e999, -1]"')  # 10
        + cells(logprobs=f'"[-1{"0" * 400}, -1]"')
        + cells(logprobs=f'"[-1{"0" * 5000}, -1]"')
        + cells(logprobs='"[0.5, -1]"')
        + cells(logprobs="[-1.0 -2.0]")
        + cells(logprobs='"(-1, -2)"')
        + cells(logprobs='"[-1, -2"')  # 16
    )
    for metric in ("choice", "entropy"):
        checked(path, metric, range(3, 17), 1)


def test_the_right_choice(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    answers: list[Any] = ["0", " 0 ", "1.0", 0.5, "", None, -1, 2, "one", "²", True, [0], 10**400, "9" * 5000]
    path.write_bytes(b"".join(changed(answer=answer) for answer in answers))
    checked(path, "choice", range(3, 15), 2)


def test_answers_of_drop_that_are_none(tmp_path: Path) -> None:
    nothing: dict[str, Any] = {"number": "", "date": {"day": "", "month": "", "year": ""}, "spans": []}
    answers: list[Any] = [
        nothing | {"spans": ["the city of Rome"]},  # 1
        nothing | {"date": "May"},
        nothing | {"date": [1]},
        nothing | {"number": {"a": 1}},
        nothing | {"spans": {"a": 1}},
        nothing | {"spans": [None]},
        nothing | {"number": True},
        {},
    ]
    path = tmp_path / "s.jsonl"
    path.write_bytes(b"".join(changed(references=[answer]) for answer in answers))
    checked(path, "drop", range(2, 9), 1)


def test_a_response_may_begin_like_a_list(tmp_path: Path) -> None:
    """A model's response that ends at the limit of tokens is a text all the same, and scored."""
    said = '["the city of Rome", "Mil'
    path = tmp_path / "s.jsonl"
    path.write_bytes(changed(response=said) + changed(response="['the city of Rome']"))
    scores = score_samples(path, "drop").scores
    assert scores["exact"].tolist() == [0, 1]
    assert scores["f1"][0] == drop_scores([said], ["the city of Rome"])[1] > 0


def test_rare_reasons_are_counted_too(tmp_path: Path) -> None:
    """Every broken line of JSON has a reason of its own; beyond five of them the summary counts."""
    path = tmp_path / "s.jsonl"
    path.write_bytes(LINE + b"".join(b'{"response": ' + b"1" * n + b"\n" for n in range(9)))
    code, said = scored(path, "accuracy")
    assert code == 0
    assert "4 x for another reason (line 7, 8, 9, 10)" in said


def test_names_that_a_terminal_would_obey(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_bytes(changed(model="\x1b[31mred\x1b[0m", prompt_type="[bold]\ud800\nx") + changed(model=None, prompt_type="b"))
    code, said = scored(path, "accuracy", tmp_path / "n.json")
    assert code == 0, said
    assert "\x1b" not in said
    assert "[bold]" in said
    (tmp_path / "t.jsonl").write_bytes(b'{"\\ud800": 1, "\\u001b[31m": 2}\n')
    refused(tmp_path / "t.jsonl", "accuracy", "no column that is known to hold the response")


# ---------------------------------------------------------------------------------------------------- whole files

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 4
REFUSED: dict[str, tuple[str, bytes, str]] = {
    # name: (file, content, what is said)
    "UTF-16": ("s.csv", (HEADER + ROW).decode().encode("utf-16"), "UTF-16"),
    "UTF-16 without BOM": ("s.csv", (HEADER + ROW).decode().encode("utf-16-le"), "no usable header"),
    "UTF-16, JSONL": ("s.jsonl", (LINE * 2).decode().encode("utf-16"), "line 1: not UTF-8"),
    "UTF-32": ("s.csv", (HEADER + ROW).decode().encode("utf-32"), "not UTF-8"),
    "Latin-1 header": ("s.csv", b"r\xe9ponse,references,logprobs,answer\n" + ROW, "no usable header"),
    "nothing": ("s.csv", b"", "no usable header"),
    "nothing, JSONL": ("s.jsonl", b"", "a file without a row"),
    "only a BOM": ("s.csv", b"\xef\xbb\xbf", "no usable header"),
    "only line ends": ("s.jsonl", b"\n\n\r\n", "a file without a row"),
    "only a header": ("s.csv", HEADER, "a file without a row"),
    "an empty array": ("s.json", b"[]", "a file without a row"),
    "a header twice": ("s.csv", b"response,references,response,logprobs,answer\n", "no usable header"),
    "no header": ("s.csv", b"one,two,3,0\n" + ROW, "no column that is known"),
    "no header, with cells that are equal": ("s.csv", ROW * 2, "no usable header"),
    "missing columns": ("s.csv", b"id,text\n1,x\n", "'id', 'text'"),
    "missing columns, JSONL": ("s.jsonl", b'{"id": 1}\n', "'id'"),
    "semicolons": ("s.csv", (HEADER + ROW).replace(b",", b";"), "no column that is known"),
    "JSONL that is called CSV": ("s.csv", LINE * 2, "s.csv"),
    "CSV that is called JSONL": ("s.jsonl", HEADER + ROW, "line 1: not JSON"),
    "one object over many lines": ("s.json", json.dumps({"data": [GOOD]}, indent=1).encode(), "line 1: not JSON"),
    "an array that was cut off": ("s.json", b"[" + LINE + b"," + LINE[:20], "not a whole JSON array"),
    "an array that goes on": ("s.json", b"[" + LINE + b"]" + LINE, "not a whole JSON array"),
    "a picture": ("s.csv", PNG, "s.csv"),
    "a picture, JSONL": ("s.jsonl", PNG, "line 1"),
    "gz that was cut off": ("s.jsonl.gz", gzip.compress(LINE * 2)[:-12], "s.jsonl.gz cannot be read"),
    "gz that was cut off, CSV": ("s.csv.gz", gzip.compress(HEADER + ROW)[:-12], "s.csv.gz cannot be read"),
    "a quote in the header": ("s.csv", b'"response,references\n' + ROW, "s.csv"),
    "every row damaged": ("s.csv", HEADER + b"x\n" * 3, "1 cells where the header has 4"),
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_scored_is_one_clear_error(name: str, metric: str, tmp_path: Path) -> None:
    file, content, words = REFUSED[name]
    (tmp_path / file).write_bytes(content)
    refused(tmp_path / file, metric, words)


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    for name in ("folder.csv", "pipe.csv", "none.csv", "none.jsonl"):
        refused(tmp_path / name, "accuracy", "there is no file")


def test_the_command_says_one_thing_and_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.csv").write_bytes(HEADER + b"x\n" * 3)
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", "score", "accuracy", str(tmp_path / "s.csv")])
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert "s.csv has no column that is known to hold the response" in said.err
    assert "line 2: 1 cells where the header has 4" in said.err
