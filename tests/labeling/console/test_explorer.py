from __future__ import annotations

import pytest
from tests.labeling.labels_by_hand import DAY, NOW, Labels

from heedful.errors import DataError
from heedful.labeling.console import explorer
from heedful.labeling.console.explorer import Page, Search
from heedful.labeling.console.prompt_record import prompt_record
from heedful.labeling.database.connection import Database


@pytest.fixture
def filled(database: Database) -> Database:
    """Prompts p00 to p29, three at each of ten times, every third one of use case chat; answers of ann and bea to some."""
    with database.write() as connection:
        make = Labels(connection)
        ann, bea = make.person("ann"), make.person("bea")
        for number in range(30):
            make.prompt(
                f"p{number:02d}",
                f"A hill of 100% in {'Wales' if number == 7 else 'Spain'}, number {number}",
                use_case="chat" if number % 3 == 0 else None,
                split="test" if number >= 20 else "train",
                source="labeler" if number == 4 else "customer",
                created=NOW + number // 3,
            )
        first, second = make.batch(), make.batch(kind="demonstrate")
        for number in range(6):
            task_id = make.task(first, f"p{number:02d}", num_outputs=2)
            make.rank(task_id, ann, "0", "1", at=NOW + number * DAY)
            if number < 2:
                make.rank(task_id, bea, "01", at=NOW)
        make.answer(make.task(second, "p20"), bea, {"text": "Snowdon <b>"}, at=NOW)
    return database


def ids(page: Page) -> list[str]:
    return [row.id for row in page.rows]


def all_pages(filled: Database, search: Search, **options: object) -> list[Page]:
    pages: list[Page] = []
    with filled.read() as connection:
        while True:
            behind = pages[-1].next if pages else None
            pages.append(explorer.page(connection, search, behind=behind, **({"budget_seconds": 60.0} | options)))  # type: ignore[arg-type]
            if pages[-1].next is None:
                return pages


@pytest.mark.parametrize("size", [1, 7, 30, 31])
@pytest.mark.parametrize("step", [1, 5, 100])
def test_pages_hold_every_row_once_newest_first(filled: Database, size: int, step: int) -> None:
    pages = all_pages(filled, Search(), size=size, step=step)
    assert [id for page in pages for id in ids(page)] == [f"p{number:02d}" for number in reversed(range(30))]
    assert all(len(page.rows) == size for page in pages[:-1])


@pytest.mark.parametrize("step", [1, 4, 100])
def test_a_page_without_time_to_look_says_where_it_stopped_and_the_next_goes_on(filled: Database, step: int) -> None:
    pages = all_pages(filled, Search(text="wales"), size=5, step=step, budget_seconds=0.0)
    assert [id for page in pages for id in ids(page)] == ["p07"]
    assert len(pages) == (1 if step == 100 else 30 // step + (step == 4) + (step == 1))
    assert all(not page.full for page in pages[:-1])
    assert pages[-1].full
    if step == 4:
        assert pages[0].looked_back_to == NOW + 26 // 3


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        (Search(text="WALES"), ["p07"]),
        (Search(text="100% in Wales"), ["p07"]),
        (Search(text="%Wales"), []),  # a per cent sign stands for itself
        (Search(text="_"), []),
        (Search(use_case="chat", split="test"), ["p27", "p24", "p21"]),
        (Search(source="labeler"), ["p04"]),
        (Search(since=NOW + 9), ["p29", "p28", "p27"]),
        (Search(until=NOW + 1), ["p02", "p01", "p00"]),
        (Search(since=NOW + 1, until=NOW + 2, use_case="chat"), ["p03"]),
        (Search(batch_id=1, until=NOW + 1), ["p02", "p01", "p00"]),
        (Search(batch_id=2), ["p20"]),
        (Search(batch_id=3), []),
        (Search(kind="response", batch_id=1, text="output 1", use_case="chat"), ["p03.1", "p00.1"]),
    ],
)
@pytest.mark.parametrize("small_batch", [5_000, 0])
def test_filters(
    filled: Database, search: Search, expected: list[str], small_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explorer, "SMALL_BATCH", small_batch)  # 0: every batch is a large one
    with filled.read() as connection:
        assert ids(explorer.page(connection, search)) == expected


@pytest.mark.parametrize("small_batch", [5_000, 0])
def test_answers_by_labeler_batch_time_and_the_prompt(
    filled: Database, small_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explorer, "SMALL_BATCH", small_batch)

    def found(**search: object) -> list[tuple[str | None, str]]:
        with filled.read() as connection:
            page = explorer.page(connection, Search(**search))  # type: ignore[arg-type]
        return [(row.labeler, row.prompt_id) for row in page.rows]

    assert found(kind="ranking", labeler="bea") in ([("bea", "p00"), ("bea", "p01")], [("bea", "p01"), ("bea", "p00")])
    assert found(kind="ranking", labeler="ann", since=NOW + 4 * DAY) == [("ann", "p05"), ("ann", "p04")]
    assert found(kind="ranking", labeler="ann", batch_id=1, use_case="chat") == [("ann", "p03"), ("ann", "p00")]
    assert found(kind="ranking", labeler="nobody") == []
    assert found(kind="ranking", batch_id=2) == []
    assert found(kind="demonstration", batch_id=2, text="snowdon <B>") == [("bea", "p20")]
    assert found(kind="demonstration", text="hill") == []
    assert len(found(kind="rating", labeler="bea")) == 4
    with pytest.raises(DataError, match="no labeler"):
        found(kind="prompt", labeler="ann")
    with pytest.raises(DataError, match="no such use case"):
        found(use_case="poetry")


def test_every_row_gives_whole_rows_of_all_pages(filled: Database) -> None:
    with filled.read() as connection:
        rows = list(explorer.every_row(connection, Search(kind="ranking", labeler="ann"), step=2))
        prompts = list(explorer.every_row(connection, Search(use_case="chat"), step=7))
    assert [row["prompt_id"] for row in rows] == [f"p{number:02d}" for number in reversed(range(6))]
    assert (rows[0]["labeler"], rows[0]["ranks"], rows[0]["seconds_spent"]) == ("ann", [1, 2], 30.0)
    assert len(prompts) == 10
    assert prompts[0]["text"] == "A hill of 100% in Spain, number 27"


def test_a_record_has_its_outputs_answers_and_events(filled: Database) -> None:
    with filled.read() as connection:
        whole = prompt_record(connection, "p00")
        assert prompt_record(connection, "p29").answers == ()
        with pytest.raises(Exception, match="no such prompt"):
            prompt_record(connection, "p99")
    assert whole.prompt["text"].endswith("number 0")
    assert [(output["id"], output["model"]) for output in whole.outputs] == [("p00.0", "m"), ("p00.1", "m")]
    assert sorted((answer.labeler, answer.kind) for answer in whole.answers) == [("ann", "rank"), ("bea", "rank")]
