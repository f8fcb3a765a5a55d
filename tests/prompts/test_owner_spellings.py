"""One owner whose id comes in several spellings: composed or decomposed, in capitals, in full width."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from tests.prompts.submissions import project as new_project
from tests.prompts.submissions import prompts, put, rejected, take_in

from heedful.errors import MissingError
from heedful.project.data_folder import Records
from heedful.project.importing import import_file
from heedful.project.owners import composed, owner_key, split_name
from heedful.prompts import intake
from heedful.prompts.forgetting import forget_owner
from heedful.records import Prompt

COMPOSED = unicodedata.normalize("NFC", "José Müller")
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


@pytest.fixture(autouse=True)
def quick_language(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "language_of_turns", lambda turns: "en")


def rows(owners: list[str]) -> list[dict[str, Any]]:
    return [{"prompt": text, "owner": owner} for text, owner in zip(prompts(len(owners)), owners, strict=True)]


def put_in_old(folder: Path, owner: str) -> Prompt:
    """A prompt as an older version stored it: the owner's id as the file had it."""
    (folder / "data").mkdir(exist_ok=True)
    row = {"id": "old", "text": "An old prompt about bees.\n", "user": owner, "split": "valid"}
    put(folder / "data" / "prompts.jsonl", [row])
    return Records.load(folder / "data").prompts["old"]


def test_composed_and_decomposed_ids_are_one_owner(tmp_path: Path) -> None:
    assert COMPOSED != DECOMPOSED
    report, records = take_in(tmp_path, rows([COMPOSED, DECOMPOSED] * 3), max_per_owner=4)
    assert report.owners == 1
    assert report.left_out == {"owner's cap": 2}
    assert {prompt.user for prompt in records.prompts.values()} == {COMPOSED}
    assert len({prompt.split for prompt in records.prompts.values()}) == 1
    again, _ = take_in(tmp_path, rows([DECOMPOSED, COMPOSED] * 3), max_per_owner=4)
    assert (again.added, again.already_there) == (0, 4)


def test_what_an_older_version_stored_decomposed_is_the_same_owners(tmp_path: Path) -> None:
    project = new_project(tmp_path)
    old = put_in_old(tmp_path, DECOMPOSED)
    assert old.user == DECOMPOSED  # the record stays as it was: its digest identifies finished stages
    report, records = take_in(tmp_path, rows([COMPOSED] * 3), max_per_owner=3)
    assert report.left_out == {"owner's cap": 1}
    assert {prompt.split for prompt in records.prompts.values()} == {"valid"}
    assert forget_owner(project, COMPOSED).erased["prompts"] == 3
    assert Records.load(project.data).prompts == {}


@pytest.mark.parametrize("asked", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("comes_back", [COMPOSED, DECOMPOSED])
def test_an_owner_is_forgotten_in_every_spelling(tmp_path: Path, asked: str, comes_back: str) -> None:
    project = new_project(tmp_path)
    take_in(tmp_path, [*rows([DECOMPOSED] * 2), {"prompt": " ", "owner": DECOMPOSED}])
    refused = {"messages": [{"role": "nobody", "content": "x"}], "user": DECOMPOSED}
    fine = {"messages": [{"role": "user", "content": "Name a tree."}]}
    import_file("messages", put(tmp_path / "chat.jsonl", [refused, fine]), project.data)
    assert len(rejected(tmp_path)) == 2
    report = forget_owner(project, asked)
    assert (report.erased, report.similar) == ({"prompts": 2, "rejected rows": 2}, ())
    back, _ = take_in(tmp_path, rows([comes_back] * 2))
    assert (back.added, back.left_out) == (0, {"forgotten owner": 2})
    chats = [{**fine, "user": comes_back}, {"messages": [{"role": "user", "content": "Name a rock."}]}]
    assert import_file("messages", put(tmp_path / "more.jsonl", chats), project.data).rejected == 1
    assert forget_owner(project, comes_back).time == report.time


def test_the_tombstone_of_a_decomposed_id_still_counts(tmp_path: Path) -> None:
    new_project(tmp_path)
    key = owner_key(tmp_path / "data")
    tombstone = {"owner": key.hashed(DECOMPOSED), "time": "2026-01-01T00:00:00+00:00", "erased": {}, "prompts": [], "runs": []}
    put(tmp_path / "data" / "forgotten.jsonl", [tombstone])
    report, _ = take_in(tmp_path, rows([DECOMPOSED, "bob"]))
    assert report.left_out == {"forgotten owner": 1}


SIMILAR = ["Anna", "anna", "ANNA", "\uff21nna"]  # the last A is a full-width letter


def test_ids_that_differ_in_case_share_the_split_but_not_the_cap(tmp_path: Path) -> None:
    for number in range(6):  # the key is random: without a shared split, six folders in a row would hardly pass
        report, records = take_in(tmp_path / str(number), rows(SIMILAR * 3), max_per_owner=3)
        assert (report.added, report.owners) == (12, 4)
        assert len({prompt.split for prompt in records.prompts.values()}) == 1


def test_import_keeps_ids_that_differ_in_case_in_one_split(tmp_path: Path) -> None:
    chats = [
        {"messages": [{"role": "user", "content": f"Name tree {n}."}], "user": f"{owner}-{n % 10}"}
        for n in range(40)
        for owner in (COMPOSED, DECOMPOSED, COMPOSED.upper())
    ]
    for number, chat in enumerate(chats):
        chat["messages"] = [{"role": "user", "content": f"Name tree {number}."}]
    import_file("messages", put(tmp_path / "chat.jsonl", chats), tmp_path / "data")
    splits: dict[str, set[str]] = {}
    for prompt in Records.load(tmp_path / "data").prompts.values():
        splits.setdefault(split_name(prompt.user or ""), set()).add(prompt.split)
    assert len(splits) == 10
    assert all(len(found) == 1 for found in splits.values())
    assert len(set().union(*splits.values())) > 1


def test_forgetting_names_the_ids_that_are_almost_the_same_and_leaves_them(tmp_path: Path) -> None:
    project = new_project(tmp_path)
    take_in(tmp_path, rows([*SIMILAR, "bob"]))
    report = forget_owner(project, "anna")
    assert report.erased == {"prompts": 1}
    assert sorted(report.similar) == sorted({"Anna", "ANNA", "\uff21nna"})
    left = {prompt.user for prompt in Records.load(project.data).prompts.values()}
    assert left == {"Anna", "ANNA", "\uff21nna", "bob"}
    with pytest.raises(MissingError) as caught:
        forget_owner(project, "aNNa")
    assert str(caught.value.next_step).startswith("did you mean 'Anna'")


def test_names_of_splits() -> None:
    assert {split_name(owner) for owner in ["Straße", "STRASSE", " strasse ", "ＳＴＲＡＳＳＥ"]} == {"strasse"}
    assert split_name("org-7") == "org-7"
    assert composed("org-7") == "org-7"
