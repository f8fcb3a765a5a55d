"""The paper's tables for a project: numbers counted by hand, lengths against pandas' definition, the page and the console."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from heedful.conversation import Turn, turns_of
from heedful.errors import MissingError
from heedful.project.data_folder import Records
from heedful.prompts.printing import PAPER_SIZES, show_tables, table_rows
from heedful.prompts.prompt_tables import Lengths, OwnerShares, Tables, lengths_of, prompt_tables
from heedful.prompts.statistics_page import write_page
from heedful.records import Demonstration, Prompt, Ranking, Response


def words(number: int) -> str:
    return " ".join(["word"] * number) + "\n"


PROMPTS = [
    Prompt(
        id="a",
        turns=turns_of(words(4)),
        user="ada",
        use_case="chat",
        source="customer",
        language="en",
        metadata={"ambiguous": True, "closed_domain": False, "requests_advice": True, "requests_moral_judgment": False},
    ),
    Prompt(
        id="b",
        turns=turns_of(words(8)),
        user="ada",
        use_case="chat",
        source="customer",
        language="de",
        metadata={"ambiguous": False, "requests_opinion": True},
    ),
    Prompt(id="c", turns=turns_of(words(2)), user="bob", use_case="extract", source="labeler", language="en"),
    Prompt(id="d", turns=turns_of(words(6)), source="customer", split="valid", metadata={"needs_review": True}),
    Prompt(id="e", turns=turns_of(words(5)), user="eve", source="customer", split="test", language="unknown"),
]
RESPONSES = [Response(id=f"r{i}", prompt_id="b", text=str(i)) for i in range(2)]
RECORDS = Records.of(
    [
        *PROMPTS,
        *RESPONSES,
        Demonstration(id="1", prompt_id="a", text=words(3), labeler="k"),
        Demonstration(id="2", prompt_id="c", text=words(9), labeler="k"),
        Demonstration(id="3", prompt_id="c", text=words(7), labeler="l"),
        Ranking(id="4", prompt_id="b", response_ids=("r0", "r1"), ranks=(1, 2), labeler="k"),
        Ranking(id="5", prompt_id="b", response_ids=("r0", "r1"), ranks=(2, 1), labeler="l"),
    ]
)


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    RECORDS.save(tmp_path)
    return prompt_tables(tmp_path)


def test_counts(tables: Tables) -> None:
    assert tables.num_prompts == 5
    assert tables.use_cases["all"] == {"chat": 2, "extract": 1, "not given": 2}
    assert tables.use_cases["SFT"] == {"chat": 1, "extract": 1}
    assert tables.use_cases["RM"] == {"chat": 1}
    assert tables.sizes["SFT"] == {("train", "customer"): 1, ("train", "labeler"): 1}
    assert tables.sizes["RM"] == {("train", "customer"): 1}  # two labelers' rankings of one prompt
    # Only b of a, b and c has no demonstration. That is less than half, so PPO uses all three, as ``prompts_for_policy`` does.
    assert tables.sizes["PPO"] == {("train", "customer"): 2, ("train", "labeler"): 1, ("valid", "customer"): 1}
    # Three fields; b has the one mark that earlier versions had for them.
    assert tables.metadata == {
        "ambiguous": (1, 2),
        "closed_domain": (0, 1),
        "requests_advice": (1, 1),
        "requests_moral_judgment": (0, 1),
        "requests_opinion": (1, 1),
    }
    assert tables.languages == {"en": 2, "de": 1, "not given": 1, "unknown": 1}
    assert tables.needs_review == 1
    assert tables.owners["all", "train"] == OwnerShares(owners=2, prompts=3, mean=1.5, median=1.5, max=2, top_ten=1.0)
    assert ("all", "valid") not in tables.owners


def test_only_labels_that_may_train_count(tmp_path: Path) -> None:
    """d and e have labels, but no model may learn from them. b has no demonstration: half of a and b, so PPO uses it alone."""
    records = Records.of(
        [
            *(prompt for prompt in PROMPTS if prompt.id != "c"),
            Response(id="r", prompt_id="d", text="x"),
            Demonstration(id="1", prompt_id="a", text=words(3), labeler="k"),
            Demonstration(id="2", prompt_id="b", text=words(9), labeler="k", phase="screening"),
            Demonstration(id="3", prompt_id="d", text=words(9), labeler="k", phase="evaluation"),
            Demonstration(id="4", prompt_id="e", text=words(9), labeler="k", metadata={"group": "held_out"}),
            Ranking(id="5", prompt_id="d", response_ids=("r",), ranks=(1,), labeler="k", phase="evaluation"),
        ]
    )
    records.save(tmp_path)
    tables = prompt_tables(tmp_path)
    assert tables.sizes["SFT"] == {("train", "customer"): 1}
    assert tables.sizes["RM"] == {}
    assert tables.sizes["PPO"] == {("train", "customer"): 1, ("valid", "customer"): 1}
    assert tables.by_source["demonstration", "customer"].count == 1


def test_lengths(tables: Tables) -> None:
    # 2, 4, 8: mean 14/3; squared distances 64/9, 4/9, 100/9: variance 84/9 = 28/3.
    train = tables.by_data_set["all", "train"]
    assert (train.count, train.min, train.q50, train.max) == (3, 2, 4.0, 8)
    assert (train.mean, train.std) == (pytest.approx(14 / 3), pytest.approx((28 / 3) ** 0.5))
    assert (train.q25, train.q75) == (3.0, 6.0)
    chat = tables.by_use_case["chat"]
    assert chat == Lengths(count=2, mean=6.0, std=chat.std, min=4, q25=5.0, q50=6.0, q75=7.0, max=8)
    assert chat.std == pytest.approx(8**0.5)
    assert tables.by_source["demonstration", "labeler"].mean == 8.0
    assert tables.by_source["demonstration", "customer"].count == 1
    assert tables.by_source["prompt", "customer"].count == 4
    assert lengths_of([7]).std == 0.0


def test_lengths_in_another_unit(tmp_path: Path) -> None:
    RECORDS.save(tmp_path)
    assert prompt_tables(tmp_path, length=len, unit="letters").by_use_case["extract"].max == len(words(2))


def test_top_ten_and_many_owners(tmp_path: Path) -> None:
    prompts = [
        Prompt(id=f"{i}-{k}", turns=turns_of(f"{i} {k}"), user=f"o{i}") for i in range(20) for k in range(11 if i < 10 else 1)
    ]
    Records.of(prompts).save(tmp_path)
    shares = prompt_tables(tmp_path).owners["all", "train"]
    assert (shares.owners, shares.max, shares.median) == (20, 11, 6.0)
    assert shares.top_ten == pytest.approx(110 / 120)


def test_paper_sizes_are_the_paper_s() -> None:
    """Table 6's sums in the paper's text (3.2): about 13k SFT, 33k RM, 31k PPO training prompts."""
    train = {name: [n for key, n in PAPER_SIZES.items() if key[:2] == (name, "train")] for name in ("SFT", "RM", "PPO")}
    sums = {name: sum(numbers) for name, numbers in train.items()}
    assert sums == {"SFT": 12_725, "RM": 33_207, "PPO": 31_144}


def test_every_table_is_shown(tables: Tables, capsys: pytest.CaptureFixture[str]) -> None:
    show_tables(tables, Console(width=120))
    said = capsys.readouterr().out
    for number in (1, 6, 7, 8, 9, 10, 11):
        assert f"Table {number}:" in said
    assert "Languages" in said
    assert "26,584" in said  # the paper's beside ours


def test_many_languages_end_in_a_sum(tmp_path: Path) -> None:
    Records.of([Prompt(id=str(i), turns=turns_of(f"t{i}"), language=f"l{i}") for i in range(25)]).save(tmp_path)
    (_, _, rows) = table_rows(prompt_tables(tmp_path))[-1]
    assert len(rows) == 21
    assert rows[-1] == ("5 others", "5", "20.0")


def test_the_page_is_whole_and_escapes(tables: Tables, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra prompts")
    write_page(tables, "<b>mine</b>", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<b>mine" not in page
    assert "&lt;b&gt;mine" in page
    assert page.count("<svg") == page.count("</svg>") == 4
    assert page.count("<table") == 8
    assert "http://" not in page.replace("http://www.w3.org", "")
    write_page(tables, "<b>mine</b>", tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_no_matplotlib_and_no_prompts(tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingError, match=r"heedful\[prompts\]"):
        write_page(tables, "x", tmp_path / "page.html")
    with pytest.raises(MissingError, match="no prompts yet"):
        prompt_tables(tmp_path / "nowhere")


def test_quartiles_are_linear() -> None:
    values = np.array([1, 2, 10, 11])
    assert (lengths_of(values).q25, lengths_of(values).q75) == (1.75, 10.25)  # pandas: Series.describe()


def test_a_conversation_counts_with_all_its_turns(tmp_path: Path) -> None:
    turns = (Turn("user", "one two"), Turn("assistant", "three"), Turn("user", "four five"))
    Records.of([Prompt(id="p", turns=turns)]).save(tmp_path)
    # By hand: five words, and the "Human:" or "Assistant:" before each turn and before the response.
    assert prompt_tables(tmp_path).lengths.tolist() == [9]
