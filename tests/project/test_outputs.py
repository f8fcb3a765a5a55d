"""A finished stage's files are checked against what stage.json says of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from heedful.errors import DataError
from heedful.project import outputs
from heedful.project.outputs import OUTPUTS, check_outputs, described_outputs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    stage = tmp_path / "sft-1"
    (stage / "model").mkdir(parents=True)
    (stage / "stage.json").write_text("{}")
    (stage / "metrics.jsonl").write_text("{}\n")
    (stage / "model" / "large").write_bytes(bytes(outputs._ALWAYS_READ + 1))
    return stage


def test_untouched_later_and_older_files_pass(folder: Path) -> None:
    described = described_outputs(folder)
    assert sorted(described) == ["metrics.jsonl", "model/large"]
    # printf '{}\\n' | sha256sum
    assert described["metrics.jsonl"][0] == 3
    assert described["metrics.jsonl"][2] == "ca3d163bab055381827226140568f3bef7eaac187cebd76878e0b63e9e442356"
    (folder / "rankings.jsonl").write_text("people's answers come later")
    check_outputs("sft", folder, {OUTPUTS: described})
    check_outputs("sft", folder, {"done": True})  # of an older version
    os.utime(folder / "model" / "large", ns=(1, 1))  # a copy of the folder
    check_outputs("sft", folder, {OUTPUTS: described})


@pytest.mark.parametrize("name", ["metrics.jsonl", "model/large"])
@pytest.mark.parametrize(
    ("damage", "got"),
    [
        ("lost", "no such file"),
        ("shorter", "bytes"),
        ("same size", "the same number of bytes, but different ones"),
        ("a folder", "bytes"),
    ],
)
def test_damage_is_named(folder: Path, name: str, damage: str, got: str) -> None:
    described, file = described_outputs(folder), folder / name
    content = file.read_bytes()
    file.unlink()
    match damage:
        case "shorter":
            file.write_bytes(content[:-1])
        case "same size":
            file.write_bytes(content[:-1] + b"x")
        case "a folder":
            file.mkdir()
        case _:
            pass
    with pytest.raises(DataError, match="an output of the finished stage sft is damaged") as caught:
        check_outputs("sft", folder, {OUTPUTS: described})
    assert caught.value.got is not None
    assert got in caught.value.got
    assert caught.value.where == str(file)
    assert f"remove the folder {folder}" in str(caught.value.next_step)
