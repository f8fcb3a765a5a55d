"""Uploads of prompts with outputs: every format, a preview first, and each mistake named with its row."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import func, select
from tests.web.site import Site
from tests.web.work import HOSTILE

from heedful.errors import DataError
from heedful.labeling.database.tables import prompt, response
from heedful.records import Turn
from heedful.web.console.uploads import read

ROWS = [
    {"prompt": "Name a river.", "responses": ["The Rhine.", {"text": "The **Danube**.", "model": "mine"}]},
    {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": HOSTILE}],
        "responses": ["    x = 1", "Hi"],
    },
]
JSONL = "\n".join(map(json.dumps, ROWS))


def test_json_lines_a_json_list_and_csv_are_read() -> None:
    first, second = read(JSONL)
    assert first.prompt.turns == (Turn("user", "Name a river.\n"),)
    assert [(one.text, one.model) for one in first.responses] == [("The Rhine.", None), ("The **Danube**.", "mine")]
    assert [turn.role for turn in second.prompt.turns] == ["system", "user"]
    assert second.responses[0].text == "    x = 1"
    assert read(json.dumps(ROWS)) == [first, second]
    for sign in ",;\t":
        lines = ("\ufeffprompt|response|Response 2", '"Two|', 'lines"|a|b', "q|c|")
        rows = read("\n".join(lines).replace("|", sign))
        assert [row.prompt.text for row in rows] == [f"Two{sign}\nlines\n", "q\n"]
        assert [[one.text for one in row.responses] for row in rows] == [["a", "b"], ["c"]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "columns"),
        ("a,b\n1,2", "columns"),
        ('{"prompt": "a", "responses": ["b"]}\n{"prompt": 7, "responses": ["b"]}', "row 2"),
        ('{"prompt": "a", "responses": []}', "row 1"),
        ('{"prompt": "a", "responses": ["b"], "rank": [1]}', "rank"),
        ('{"responses": ["b"]}', "row 1"),
        ('{"prompt": "a", "responses": ["b\\u0000"]}', "row 1"),
        ('{"prompt": " ", "responses": ["b"]}', "row 1"),
        ("[" * 100_000, "JSON"),
        ('{"prompt": "a"', "row 1"),
        ("[]", "empty"),
        ('{"prompt": "a", "prompt": "c", "responses": ["b"]}', "row 1.*twice"),
        ('{"prompt": "a", "responses": ["b", {"text": "c", "score": 1e400}]}', "row 1"),
        ('{"prompt": "a", "responses": [{"text": "b", "rating": 3}]}', "rating"),
        ('{"prompt": "a", "responses": ["b"], "winner": "b"}', "winner"),
        ('{"prompt": "a", "responses": ["b"], "docs": ["c"]}', "docs"),
        ('{"prompt": "a", "responses": ["b"], "shade": "c"}', "shade.*unknown"),
        ('{"prompt": "a", "responses": [{"message": "b"}]}', "none of the keys text"),
        ('{"prompt": "a", "responses": {"m": "b"}}', "should be a list"),
        ("prompt,response,response\na,b,c", "two columns"),
        ("prompt,response,response_1\na,b,c", "row 2.*each once"),
        ("prompt,response\na,b,c", "row 2.*cells"),
    ],
)
def test_a_mistake_is_named(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(text)


def test_rows_are_read_as_import_reads_them() -> None:
    """Unicode's line separators are characters of a text; history, system message and owner are read; equal outputs are one."""
    odd = {"prompt": "a\u2028b\x85c", "responses": ["x\u2029y\x0bz", "w"], "owner": "mia"}
    later = {"system": "Be brief.", "history": [["one", "two"]], "question": "three", "responses": ["x", "x", "y"]}
    first, second = read("\r\n".join(json.dumps(row, ensure_ascii=False) for row in (odd, later)))
    assert first.prompt.turns == (Turn("user", "a\u2028b\x85c\n"),)
    assert first.prompt.user == "mia"
    assert [one.text for one in first.responses] == ["x\u2029y\x0bz", "w"]
    assert [turn.text for turn in second.prompt.turns] == ["Be brief.", "one", "two", "three"]
    assert [one.text for one in second.responses] == ["x", "y"]
    assert len(second.notes) == 1


def test_a_file_is_shown_first_and_then_stored(site: Site) -> None:
    researcher = site.browser(site.person("researcher"))
    page = researcher.client.post(
        "/batches/upload",
        data={"csrf": researcher.csrf, "rows": ""},
        files={"file": ("rows.jsonl", JSONL.encode(), "application/x-ndjson")},
    )
    assert page.status_code == 200
    assert "2 prompts with 4 outputs" in page.text
    assert "<strong>Danube</strong>" in page.text
    assert "<script>alert" not in page.text
    with site.database.read() as connection:
        assert connection.execute(select(func.count()).select_from(prompt)).scalar_one() == 0
    stored = researcher.post("/batches/upload/store", {"rows": JSONL, "split": "valid"})
    assert stored.headers["location"] == "/batches"
    assert researcher.post("/batches/upload/store", {"rows": JSONL, "split": "valid"}).status_code == 303
    assert "2 prompts were there already" in researcher.get("/batches").text
    with site.database.read() as connection:
        assert connection.execute(select(func.count()).select_from(response)).scalar_one() == 4
        assert set(connection.execute(select(prompt.c.split)).scalars()) == {"valid"}


def test_a_broken_file_is_refused(site: Site) -> None:
    researcher = site.browser(site.person("researcher"))
    for content in (b"\xff\xfe{", b"", b"nothing"):
        sent = researcher.client.post("/batches/upload", data={"csrf": researcher.csrf}, files={"file": ("x", content)})
        assert sent.status_code == 422
    two = [("file", ("a", b"x")), ("file", ("b", b"y"))]
    assert researcher.client.post("/batches/upload", data={"csrf": researcher.csrf}, files=two).status_code < 500
    assert researcher.post("/batches/upload/store", {"rows": JSONL, "split": "nowhere"}).status_code == 422
