"""Intake: what is left out and why; split, cap and the choice among duplicates depend on no order and on no other owner."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.prompts.submissions import prompts, put, rejected, take_in

from heedful.errors import ConfigError, DataError, MissingError, StorageError
from heedful.project import owners
from heedful.project.data_folder import Records
from heedful.project.importing import import_file
from heedful.project.owners import OWNERS, SHARES, OwnerKey
from heedful.prompts import intake
from heedful.prompts.duplicates import prefix_key
from heedful.prompts.intake import CATEGORIES, Cleaning, import_prompts
from heedful.records import Split

ALL_TRAIN, ALL_VALID = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
KEY = bytes(range(32))


def duplicates(first: str, second: str) -> bool:
    return prefix_key(first) == prefix_key(second)


def begin(folder: Path, shares: tuple[float, float, float], key: bytes = KEY) -> Path:
    """A data folder whose key and shares are known."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "data" / OWNERS).write_text(json.dumps({"key": key.hex(), "shares": list(shares)}))
    return folder


def test_a_prompt_as_it_is_stored(tmp_path: Path) -> None:
    row = {
        "prompt": "  Write a short story about a lighthouse keeper who is afraid of the dark.  ",
        "owner": "org-1",
        "source": "customer",
        "use_case": "generation",
    }
    report, records = take_in(begin(tmp_path, ALL_TRAIN), [row])
    (prompt,) = records.prompts.values()
    assert prompt.text == "  Write a short story about a lighthouse keeper who is afraid of the dark.\n"
    assert (prompt.user, prompt.source, prompt.use_case, prompt.split, prompt.language) == (
        "org-1",
        "customer",
        "generation",
        "train",
        "en",
    )
    assert prompt.metadata.keys() == {"imported"}
    assert (report.added, report.owners, report.splits, report.left_out) == (1, 1, {"train": 1}, {})


def test_every_reason_is_counted_and_kept_without_the_text(tmp_path: Path) -> None:
    fine = prompts(4)
    rows = [
        {"prompt": fine[0], "owner": "eve"},
        "{broken",
        {"prompt": "   ", "owner": "ada"},
        {"text": 7},
        {"prompt": "use_case is wrong here, and says SECRETIVE things", "use_case": "poetry", "owner": "ada"},
        {"prompt": fine[1], "owner": "ada", "consent": False},
        {"prompt": "word " * 1_025, "owner": "ada"},
        {"prompt": "Write to grace@navy.example about the ship.", "owner": "ada"},
        {"prompt": fine[0].upper(), "owner": "bob"},
        {"prompt": fine[1], "owner": "ada"},
        {"prompt": fine[2], "owner": "ada"},
        {"prompt": fine[3], "owner": "ada"},
    ]
    report, records = take_in(begin(tmp_path, ALL_TRAIN), rows, max_per_owner=2)
    assert report.left_out == {
        "unreadable": 4,
        "no consent": 1,
        "too long": 1,
        "personal data in train": 1,
        "duplicate": 1,  # eve's or bob's: the hash decides
        "owner's cap": 1,
    }
    assert list(report.left_out) == [category for category in CATEGORIES if category in report.left_out]
    assert report.added == len(records.prompts)
    kept_aside = rejected(tmp_path)
    assert len(kept_aside) == report.read - report.added
    assert {row["file"] for row in kept_aside} == {str((tmp_path / "rows.jsonl").resolve())}
    reasons = {row["line"]: row["reason"] for row in kept_aside}
    assert reasons[2].startswith("not JSON")
    assert reasons[3] == "the prompt is empty"
    assert reasons[4].startswith("'text' should be text")
    assert reasons[7] == "too long: 1025 words, at most 1024 are allowed"
    assert reasons[8] == "personal data (email) in a prompt of the split train"
    assert not any("grace" in json.dumps(row) or "SECRETIVE" in json.dumps(row) for row in kept_aside)
    assert all(f"line {line}: {reason}" in report.reasons for line, reason in sorted(reasons.items())[:5])


def test_a_second_time_adds_nothing(tmp_path: Path) -> None:
    texts = prompts(30)
    rows = [{"prompt": text, "owner": f"o{i % 3}"} for i, text in enumerate([*texts, *texts[:9], "", "mail ada@example.org"])]
    first, _ = take_in(tmp_path, rows, max_per_owner=6)
    files = {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir() if path.is_file()}
    again, _ = take_in(tmp_path, rows, max_per_owner=6)
    assert {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir() if path.is_file()} == files
    assert (again.added, again.already_there) == (0, first.added)
    assert again.left_out == first.left_out
    assert first.left_out["owner's cap"] > 0
    assert first.left_out["duplicate"] > 0


def test_personal_data_outside_of_train_is_kept_and_flagged(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Write to grace@navy.example about the ship.", "owner": "ada"},
        {"prompt": prompts(1)[0], "owner": "ada"},
    ]
    report, records = take_in(begin(tmp_path, ALL_VALID), rows)
    flagged = {prompt.text: prompt.metadata.get("personal_data") for prompt in records.prompts.values()}
    assert flagged == {"Write to grace@navy.example about the ship.\n": ["email"], prompts(1)[0] + "\n": None}
    assert [prompt.metadata.get("needs_review", False) for prompt in records.prompts.values()] == [True, False]
    assert (report.flagged, report.splits) == (1, {"valid": 2})


def test_names_and_length_by_what_is_given(tmp_path: Path) -> None:
    from heedful.prompts.personal import Finding

    def names(text: str) -> list[Finding]:
        return [Finding("name", 0, 3)] if text.startswith("Ada") else []

    rows = [{"prompt": "Ada wants a poem about rain"}, {"prompt": "abcdefghijk"}, {"prompt": "A poem"}]
    report, _ = take_in(begin(tmp_path, ALL_TRAIN), rows[:1], names=names)
    assert report.left_out == {"personal data in train": 1}
    report, _ = take_in(tmp_path, rows[1:], name="two.jsonl", length=len, unit="letters", max_length=10)
    assert report.left_out == {"too long": 1}
    assert "too long: 12 letters, at most 10 are allowed" in report.reasons[0]


def test_without_owner_no_cap_and_a_conversation_in_one_split(tmp_path: Path) -> None:
    report, records = take_in(tmp_path, [{"prompt": text} for text in prompts(40)], max_per_owner=5)
    assert (report.added, report.without_owner, report.owners) == (40, 40, 0)
    chats = [{"messages": [{"role": "user", "content": "Name a river."}, {"role": "assistant", "content": "The Po."}] * 1}]
    for more in ("Another one?", "And a lake?", "And where is it?", "How long is it?", "Does it freeze?"):
        messages = [*chats[0]["messages"], {"role": "user", "content": more}]
        chats.append({"messages": messages})
    _, records = take_in(tmp_path, chats, "chat", "chats.jsonl")
    assert len({p.split for p in records.prompts.values() if "river" in p.text}) == 1


def chat(*said: tuple[str, str], **more: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in said], **more}


CODE = "    for river in rivers:\n        print(river)"
CONVERSATION = chat(("system", "Be brief."), ("user", CODE), ("assistant", "Which?"), ("user", f"{CODE}\n"), owner="ada")


def test_a_conversation_keeps_its_turns_and_is_known_again(tmp_path: Path) -> None:
    for added in (1, 0):
        report, records = take_in(begin(tmp_path, ALL_TRAIN), [CONVERSATION], "chat")
        assert (report.added, report.already_there) == (added, 1 - added)
    (prompt,) = records.prompts.values()
    assert prompt.turns == (("system", "Be brief."), ("user", CODE), ("assistant", "Which?"), ("user", CODE))


def test_a_conversation_that_was_stored_as_one_text_is_known_again(tmp_path: Path) -> None:
    rows = [chat(("user", "Name a river."), ("assistant", "The Po."), ("user", "Another one?"), owner="ada")]
    data = begin(tmp_path, ALL_TRAIN) / "data"
    text = "Human: Name a river.\n\nAssistant: The Po.\n\nHuman: Another one?\n\nAssistant:"
    put(data / "prompts.jsonl", [{"id": "old", "text": text, "user": "ada", "split": "train"}])
    report, records = take_in(tmp_path, rows, "chat")
    assert (report.added, report.already_there, list(records.prompts)) == (0, 1, ["old"])


def test_conversations_that_share_a_long_system_message_are_no_duplicates(tmp_path: Path) -> None:
    system = ("system", "You help the guests of a lighthouse. " * 20)
    rows = [chat(system, ("user", text)) for text in (*prompts(2), prompts(1)[0])]
    report, _ = take_in(begin(tmp_path, ALL_TRAIN), rows, "chat")
    assert (report.added, report.left_out) == (2, {"duplicate": 1})


def test_personal_data_is_looked_for_in_each_turn(tmp_path: Path) -> None:
    rows = [
        chat(("user", "Who is it?"), ("assistant", "bob@example.org"), ("user", "Thanks! What else?")),
        chat(("user", "My number begins with 212 555"), ("assistant", "And then?"), ("user", "0187 is the end of another one")),
    ]
    _, records = take_in(begin(tmp_path, (0.0, 0.0, 1.0)), rows, "chat")
    assert [p.metadata.get("personal_data") for p in records.prompts.values()] == [["email"], None]


def test_an_owner_whom_another_import_put_somewhere_stays_there(tmp_path: Path) -> None:
    (tmp_path / "chat.jsonl").write_text(
        json.dumps({"messages": [{"role": "user", "content": "Name a lake."}], "user": "ada"}) + "\n"
    )
    import_file("messages", tmp_path / "chat.jsonl", begin(tmp_path, ALL_TRAIN) / "data", split_shares=(0.0, 0.0, 1.0))
    report, _ = take_in(tmp_path, [{"prompt": prompts(1)[0], "owner": "ada"}, {"prompt": prompts(2)[1], "owner": "bob"}])
    assert report.splits == {"train": 1, "test": 1}


# ---------------------------------------------------------------------------------------------------- properties


OWNERS_IN_TESTS = st.sampled_from([None, "ada", "bob", "eve", "kim", "zoë"])
ROWS = st.lists(
    st.fixed_dictionaries({"prompt": st.sampled_from(prompts(25)), "owner": OWNERS_IN_TESTS}), min_size=1, max_size=30
)


def imported(rows: list[dict[str, Any]], *more: list[dict[str, Any]], cap: int = 3) -> Records:
    with tempfile.TemporaryDirectory() as folder:
        begin(Path(folder), SHARES)
        for number, part in enumerate((rows, *more)):
            _, records = take_in(Path(folder), part, name=f"{number}.jsonl", max_per_owner=cap)
        return records


@pytest.fixture(autouse=True)
def quick_language(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model takes a while to load; tests/prompts/test_language.py looks at it."""
    monkeypatch.setattr(intake, "language_of_turns", lambda turns: "en")


@pytest.fixture(scope="module", autouse=True)
def quick_disk() -> Any:
    """No fsync: hypothesis makes hundreds of folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


SOME = settings(max_examples=20)


def kept(records: Records) -> set[tuple[str, str | None, Split]]:
    return {(prompt.text, prompt.user, prompt.split) for prompt in records.prompts.values()}


@SOME
@given(ROWS, st.randoms())
def test_the_order_of_the_rows_does_not_matter(rows: list[dict[str, Any]], random: Any) -> None:
    shuffled = random.sample(rows, len(rows))
    assert kept(imported(rows)) == kept(imported(shuffled))


@SOME
@given(ROWS, ROWS, ROWS)
def test_cap_duplicates_and_splits_hold_over_several_imports(a: Any, b: Any, c: Any) -> None:
    records = imported(a, b, c, cap=3)
    stored = list(records.prompts.values())
    assert max(Counter(prompt.user for prompt in stored if prompt.user is not None).values(), default=0) <= 3
    assert not any(duplicates(x.text, y.text) for i, x in enumerate(stored) for y in stored[:i])
    key = OwnerKey(key=KEY, shares=SHARES)
    assert all(prompt.split == key.split(f"user {prompt.user}") for prompt in stored if prompt.user is not None)
    assert all(any(duplicates(row["prompt"], p.text) for p in stored) for row in a + b + c if row["owner"] is None)


@SOME
@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=20, unique=True), st.data())
def test_an_owner_s_split_stays_when_others_come_or_go(names: list[str], data: Any) -> None:
    """Alone, among any others, in one import or in two: the same split."""
    names = [name for name in names if name.strip() == name and name.isprintable()] or ["ada"]
    rows = [{"prompt": text, "owner": name} for name, text in zip(names, prompts(len(names)), strict=True)]
    others = data.draw(st.permutations(rows))[: data.draw(st.integers(1, len(rows)))]
    splits = {p.user: p.split for p in imported(rows).prompts.values()}
    assert splits == {p.user: p.split for p in imported(others, rows).prompts.values()}
    for row in rows[:2]:
        (alone,) = imported([row]).prompts.values()
        assert alone.split == splits[row["owner"]]


def test_the_shares_are_about_what_they_should_be() -> None:
    key = OwnerKey(key=KEY, shares=SHARES)
    counts = Counter(key.split(f"user {i}") for i in range(5_000))
    # Binomial: 5 standard deviations of 5,000 draws are 0.028 at 0.8, 0.021 at 0.1.
    assert counts["train"] / 5_000 == pytest.approx(0.8, abs=0.028)
    assert counts["valid"] / 5_000 == pytest.approx(0.1, abs=0.021)
    assert len({OwnerKey(key=bytes([i]) * 32, shares=SHARES).split("user ada") for i in range(60)}) == 3


# ---------------------------------------------------------------------------------------------------- errors


def test_nothing_usable_and_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no row of rows\.jsonl is usable as prompts"):
        take_in(tmp_path, [{"question": "why?"}])
    with pytest.raises(DataError, match="holds no rows"):
        take_in(tmp_path, [])
    with pytest.raises(ConfigError, match="did you mean 'prompts'"):
        import_prompts("prompt", tmp_path / "x", tmp_path / "data")
    with pytest.raises(MissingError, match="no file"):
        import_prompts("prompts", tmp_path / "x.jsonl", tmp_path / "data")
    wrong: dict[str, Any]
    for wrong in ({"max_length": 0}, {"max_per_owner": 0}, {"region": "Mars"}):
        with pytest.raises(ConfigError):
            Cleaning(**wrong)
    assert not (tmp_path / "data" / "prompts.jsonl").exists()


def test_a_full_disk_changes_no_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take_in(tmp_path, [{"prompt": prompts(1)[0], "owner": "ada"}])
    before = (tmp_path / "data" / "prompts.jsonl").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(StorageError):
        take_in(tmp_path, [{"prompt": text, "owner": "ada"} for text in prompts(3)])
    monkeypatch.undo()
    assert (tmp_path / "data" / "prompts.jsonl").read_bytes() == before
    assert not list((tmp_path / "data").glob(".*.tmp"))


def test_a_broken_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / OWNERS).write_text('{"key": "00", "shares": [1, 0, 0]}')
    with pytest.raises(DataError, match="owners would get other splits"):
        take_in(tmp_path, [{"prompt": "x"}])
    assert owners.existing_owner_key(begin(tmp_path, SHARES) / "data") == OwnerKey(key=KEY, shares=SHARES)


@pytest.mark.parametrize("change", [lambda rows: rows[::-1], lambda rows: rows[:2], lambda rows: [1, *rows[1:]]])
def test_a_file_that_changes_between_the_readings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[list[Any]], list[Any]]
) -> None:
    rows = [{"prompt": text, "owner": "ada"} for text in prompts(3)]
    choose = intake._choose

    def changed(*arguments: Any) -> Any:
        put(tmp_path / "rows.jsonl", map(json.dumps, change(rows)))
        return choose(*arguments)

    monkeypatch.setattr(intake, "_choose", changed)
    with pytest.raises(DataError, match="changed while it was read"):
        take_in(begin(tmp_path, ALL_TRAIN), rows)
    assert not (tmp_path / "data" / "prompts.jsonl").exists()


def test_prompts_of_few_owners_in_one_split_give_the_warning(tmp_path: Path) -> None:
    folder = begin(tmp_path, ALL_TRAIN)
    report, _ = take_in(folder, [{"prompt": "Name a river in Europe.", "owner": "a"}])
    assert report.one_split is None
    report, _ = take_in(folder, [{"prompt": "Name a lake in Asia.", "owner": "a"}])
    assert "all 2 prompts belong to one user, so all are in train" in str(report.one_split)
    report, _ = take_in(folder, [{"prompt": "Count to ten, slowly.", "owner": "b"}])
    assert "all 3 prompts belong to 2 users who are in train" in str(report.one_split)
    report, _ = take_in(folder, [{"prompt": "Write a poem on rain."}])
    assert report.one_split is None
