"""Rows of FLAN and T0."""

from __future__ import annotations

from typing import Any

import pytest

from heedful.project.formats.rows import BadRow
from heedful.project.formats.task_rows import read_task
from heedful.records import Demonstration, Prompt


def read(row: Any) -> tuple[str, str]:
    prompt, demonstration = read_task(row, None).records
    assert isinstance(prompt, Prompt)
    assert isinstance(demonstration, Demonstration)
    return prompt.text, demonstration.text


def test_both_publishers_keys() -> None:
    assert read({"inputs": "2 + 2", "targets": "4"}) == ("2 + 2\n", "4")
    assert read({"inputs": [1, 2], "targets": [3], "inputs_pretokenized": "2 + 2", "targets_pretokenized": "\n4"}) == (
        "2 + 2\n",
        "4",
    )


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"targets": "4"}, "no key 'inputs'"),
        ({"inputs": "2"}, "no key 'targets'"),
        ({"inputs": "2", "targets": ""}, "the answer is empty"),
        ({"inputs": " ", "targets": "4"}, "the prompt is empty"),
        ({"inputs": [1], "targets": "4"}, "should be text"),
        ([1], "not an object"),
    ],
)
def test_bad_rows(row: Any, complaint: str) -> None:
    with pytest.raises(BadRow, match=complaint):
        read_task(row, None)
