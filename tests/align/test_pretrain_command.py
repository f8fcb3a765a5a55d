"""``heedful pretrain`` refuses in the first moment what would fail, or replace a model, after hours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.align.small_project import run
from tests.test_bad_input import fails
from transformers import AutoModelForCausalLM, AutoTokenizer

from heedful.align import pretraining
from heedful.project.lock import alone_in

SMALL = ["--layers", "1", "--width", "16", "--heads", "2", "--vocabulary", "300", "--context-length", "16"]
SMALL += ["--num-tokens", "400", "--batch-tokens", "100"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "a.txt").write_bytes("\n<|endoftext|>\n".join(["Le café est près d'ici, à côté."] * 60).encode("windows-1252"))
    return folder


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if anything is trained."""

    def trained(*_: object, **__: object) -> None:
        pytest.fail("it began to train")

    monkeypatch.setattr(pretraining, "train_tokenizer", trained)


def test_a_model_from_text_in_another_encoding(text: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    message = fails("pretrain", text, "--output", output, *SMALL)
    assert f"where:    {text / 'a.txt'}:1" in message
    assert "--encoding" in message
    code, said = run("pretrain", text, "--output", output, "--encoding", "windows-1252", *SMALL)
    assert code == 0, said
    tokenizer = AutoTokenizer.from_pretrained(output / "model")
    assert any("é" in tokenizer.decode([i]) for i in range(len(tokenizer)))  # a pair of bytes that it learned to join
    assert AutoModelForCausalLM.from_pretrained(output / "model").config.n_positions == 16
    # The folder is finished: a second run would replace its model.
    before = (output / "model" / "model.safetensors").read_bytes()
    message = fails("pretrain", text, "--output", output, "--encoding", "windows-1252", *SMALL)
    assert "there is a model in this folder already" in message
    assert (output / "model" / "model.safetensors").read_bytes() == before


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--heads 3", "width is not a multiple of heads"),
        ("--heads 0", "heads is too small"),
        ("--layers 0", "layers is too small"),
        ("--width 0", "width is too small"),
        ("--vocabulary 257", "at least 258"),
        ("--context-length 1", "context_length is out of range"),
        ("--context-length -5", "context_length is out of range"),
        ("--num-tokens 0", "num_tokens is out of range"),
        ("--batch-tokens 0", "batch_tokens is out of range"),
        ("--learning-rate nan", "learning_rate is out of range"),
        ("--learning-rate inf", "learning_rate is out of range"),
        ("--encoding klingon", "--encoding names no encoding of text"),
        ("--encoding base64", "--encoding names no encoding of text"),
    ],
)
def test_values_that_cannot_be(text: Path, tmp_path: Path, flags: str, expected: str) -> None:
    assert expected in fails("pretrain", text, "--output", tmp_path / "run", *SMALL, *flags.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("untrained")
def test_folders_that_cannot_be(text: Path, tmp_path: Path) -> None:
    assert "there is no pretraining text" in fails("pretrain", tmp_path / "none", "--output", tmp_path / "run", *SMALL)
    assert "in the folder of the text" in fails("pretrain", text, "--output", text / "run", *SMALL)
    (tmp_path / "file").write_text("x")
    assert "the run needs a folder" in fails("pretrain", text, "--output", tmp_path / "file", *SMALL)
    assert not (tmp_path / "run").exists()
    with alone_in(tmp_path / "busy"):
        message = fails("pretrain", text, "--output", tmp_path / "busy", *SMALL)
    assert "another process is using this folder" in message


def test_what_was_interrupted_after_the_model_was_written_continues(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["pretrain", text, "--output", tmp_path / "run", "--encoding", "windows-1252", *SMALL]
    with monkeypatch.context() as patch:

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("heedful.training.pretrain.CheckpointTimer.due", lambda _: True)
        patch.setattr("heedful.training.run.Run.finish", killed)
        code, said = run(*arguments)
    assert code == 130, said
    assert (tmp_path / "run" / "model").is_dir()
    code, said = run(*arguments)
    assert code == 0, said
    assert "continuing at step 4" in said
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [0, 1, 2, 3]
