"""Which of a project's plain text is trained on, and which is kept out to measure the loss on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.align.small_project import write_base_model, write_rows

from heedful.align.inputs import fingerprint_inputs
from heedful.align.project_text import pretraining_text
from heedful.errors import DataError
from heedful.model import load_tokenizer
from heedful.project.data_folder import Records
from heedful.training.pretraining_text import encode_documents


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base_model(tmp_path_factory.mktemp("models") / "base")


def tokens(base: Path, folder: Path, part: str, encoding: str = "utf-8") -> list[int]:
    setting: Any = SimpleNamespace(
        project=SimpleNamespace(pretraining_text=folder, pretraining_encoding=encoding), base_model=base
    )
    text = pretraining_text(setting, part)
    assert text is not None
    return list(text.tokens)


def encoded(base: Path, documents: list[str]) -> list[int]:
    return list(encode_documents(load_tokenizer(base), documents).tokens)


@pytest.mark.parametrize("name", ["train.jsonl", "web.jsonl"])
def test_every_fiftieth_document_is_kept_out_whatever_the_only_file_is_called(base: Path, tmp_path: Path, name: str) -> None:
    documents = [f"w{1 + i % 7} w{8 + i % 50}" for i in range(120)]
    write_rows(tmp_path / name, [{"text": document} for document in documents])
    assert tokens(base, tmp_path, "valid") == encoded(base, [documents[49], documents[99]])
    assert tokens(base, tmp_path, "train") == encoded(base, documents[:49] + documents[50:99] + documents[100:])


@pytest.mark.parametrize("ending", ["jsonl", "txt"])
def test_where_there_are_both_files_each_is_its_part(base: Path, tmp_path: Path, ending: str) -> None:
    for part, text in (("train", "w1 w2"), ("valid", "w3 w4")):
        write_rows(tmp_path / f"{part}.jsonl", [{"text": text}])
        if ending == "txt":
            (tmp_path / f"{part}.jsonl").unlink()
            (tmp_path / f"{part}.txt").write_text(text)
    assert tokens(base, tmp_path, "train") == encoded(base, ["w1 w2"])
    assert tokens(base, tmp_path, "valid") == encoded(base, ["w3 w4"])
    write_rows(tmp_path / "notes.jsonl", [{"text": "w9"}])
    with pytest.raises(DataError, match="besides train and valid there is other pretraining text"):
        tokens(base, tmp_path, "train")


@pytest.mark.parametrize("names", [("train", "valid"), ("web", "books")])
def test_text_in_the_encoding_that_the_project_names(base: Path, tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        (tmp_path / f"{name}.txt").write_bytes("w1 w2 w3".encode("utf-16"))
    assert tokens(base, tmp_path, "train", "utf-16") == encoded(base, ["w1 w2 w3"] * (1 if "train" in names else 2))
    with pytest.raises(DataError, match="not UTF-8"):
        tokens(base, tmp_path, "train")


@pytest.mark.parametrize(("encoding", "want"), [("utf-8", "d"), ("UTF8", "d"), ("windows-1252", ["d", "windows-1252"])])
def test_another_encoding_is_another_input(tmp_path: Path, encoding: str, want: object) -> None:
    """A stage that read UTF-8, as all did in older versions, keeps its fingerprint."""
    project = SimpleNamespace(pretraining_text=tmp_path, pretraining_encoding=encoding)
    given: Any = SimpleNamespace(
        setting=SimpleNamespace(project=project, learns_refusals=False),
        stage=SimpleNamespace(needs={"text": "pretraining_text"}),
        config=None,
    )
    assert fingerprint_inputs(given, Records(), {}, lambda path: "d") == {"text": want}
