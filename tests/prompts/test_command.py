"""``heedful prompts import | stats | forget`` as a person types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.align.small_project import run
from tests.prompts.submissions import project, prompts, put
from tests.tiny import tiny_tokenizer

from heedful.project.data_folder import Records


def request(number: int, text: str, **more: object) -> dict[str, object]:
    time = f"2026-03-01T09:{number:02d}:00+00:00"
    return {"time": time, "owner": f"org-{number % 3}", "model": "small-1", "consent": True, "prompt": text, **more}


def test_a_log_in_tables_out_an_owner_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    folder = tmp_path / "mine"
    project(folder)
    rows = [request(i, text) for i, text in enumerate(prompts(9))] + [request(1, "Name a tree.", consent=False)]
    log = put(tmp_path / "log.jsonl", rows)
    code, said = run("prompts", "import", "api", log, "--project", folder)
    assert code == 0, said
    assert "left out: no consent" in said
    assert (
        f"line 10: no consent: the owner did not agree that it may be used\n  all in {folder / 'data' / 'rejected.jsonl'}"
        in said
    )
    assert {p.source for p in Records.load(folder / "data").prompts.values()} == {"customer"}

    code, said = run("prompts", "stats", folder)
    assert code == 0, said
    assert "Table 9: prompt lengths in words" in said
    assert (folder / "prompts.html").is_file()

    code, said = run("prompts", "forget", "org-1", "--project", folder)
    assert (code, "prompts 3" in said) == (0, True), said
    assert {p.user for p in Records.load(folder / "data").prompts.values()} == {"org-0", "org-2"}
    code, said = run("prompts", "import", "api", log, "--project", folder)
    assert (code, "forgotten owner" in said, "already there" in said) == (0, True, True)


def test_lengths_in_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    file = put(tmp_path / "rows.jsonl", [{"prompt": "river " * 9, "owner": "a"}, {"prompt": "river", "owner": "b"}])
    arguments = ("prompts", "import", "prompts", file, "--project", tmp_path, "--tokenizer", tmp_path / "model")
    code, said = run(*arguments, "--max-length", 5)
    assert code == 0, said
    assert "tokens, at most 5 are allowed" in said
    code, said = run("prompts", "stats", tmp_path, "--tokenizer", tmp_path / "model" / "tokenizer.json")
    assert (code, "lengths in tokens" in said) == (0, True), said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("import", "prompts", "nowhere.jsonl"), "there is no file nowhere.jsonl"),
        (("import", "prompts", "x.jsonl", "--tokenizer", "nowhere"), "there is no tokenizer"),
        (("import", "prompts", "x.jsonl", "--tokenizer", "heedful.toml"), "the tokenizer cannot be read"),
        (("import", "prompts", "x.jsonl", "--region", "us"), "region"),
        (("import", "rows", "x.jsonl"), "--help"),
        (("stats",), "there are no prompts yet"),
        (("forget", "nobody"), "this owner has no data here"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    project(tmp_path)
    put(tmp_path / "x.jsonl", [{"prompt": "Hi there", "owner": "a"}])
    monkeypatch.chdir(tmp_path)
    code, said = run("prompts", *arguments)
    assert code == 2, said
    assert message in said
    assert "Traceback" not in said


@pytest.mark.parametrize("action", ["import", "stats", "forget"])
def test_help_says_what_happens(action: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, said = run("prompts", action, "--help")
    assert (code, "None" in said) == (0, False)
    assert f"usage: heedful prompts {action}" in said
    assert max(map(len, said.partition("\n\n")[2].splitlines())) <= 80


def test_json_of_a_broken_line_is_not_kept(tmp_path: Path) -> None:
    project(tmp_path)
    put(tmp_path / "x.jsonl", ['{"prompt": "my secret', {"prompt": "Hi there", "owner": "a"}])
    run("prompts", "import", "prompts", tmp_path / "x.jsonl", "--project", tmp_path)
    (row,) = map(json.loads, (tmp_path / "data" / "rejected.jsonl").read_text().splitlines())
    assert row["line"] == 1
    assert "secret" not in json.dumps(row)
