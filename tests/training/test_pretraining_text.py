from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny import END, tiny_tokenizer

from heedful.errors import DataError, MissingError
from heedful.training.pretraining_text import PretrainingText, encode_documents, read_documents

TOKENIZER = tiny_tokenizer()


def text_of(lengths: list[int]) -> PretrainingText:
    """Documents in which every token is unlike all others, so that each can be followed."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return PretrainingText(np.arange(offsets[-1], dtype=np.int32), offsets)


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=20),
    st.integers(2, 16),
    st.integers(0, 5),
    st.booleans(),
)
def test_one_pass_gives_every_token_once_in_sequences_within_the_limit(
    lengths: list[int], context: int, seed: int, varied: bool
) -> None:
    text = text_of(lengths)
    shortest = max(2, context // 2) if varied else None
    sequences = list(text.sequences(context_length=context, rng=np.random.default_rng(seed), shortest=shortest))
    assert all(2 <= len(s) <= context for s in sequences)
    seen = np.concatenate([*sequences, np.empty(0, np.int32)])
    assert len(set(seen.tolist())) == len(seen)
    document = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(text.tokens)) - text.offsets[document]
    # Left out: only what would have stood alone, a one-token document or the one token left of a long one.
    for token in set(text.tokens.tolist()) - set(seen.tolist()):
        assert place[token] == lengths[document[token]] - 1
        assert place[token] % context == 0
    for sequence in sequences:
        assert place[sequence[0]] % context == 0  # a document's beginning, or it goes on with one longer than the context
        for before, after in itertools.pairwise(sequence.tolist()):
            ends = place[before] == lengths[document[before]] - 1
            assert place[after] == 0 if ends else after == before + 1


def test_the_order_of_the_documents_follows_the_seed() -> None:
    def first(seed: int) -> list[list[int]]:
        sequences = text_of([3] * 20).sequences(context_length=6, rng=np.random.default_rng(seed))
        return [s.tolist() for s in sequences]

    assert first(1) == first(1)
    assert first(1) != first(2)


def test_documents_end_with_end_of_text() -> None:
    text = encode_documents(TOKENIZER, ["w1 w2", "  \n", "w3"])
    assert text.tokens.tolist() == [1, 2, END, 3, END]
    assert text.offsets.tolist() == [0, 3, 5]
    assert text.num_documents == 2
    with pytest.raises(DataError, match="no pretraining text"):
        encode_documents(TOKENIZER, ["", "\n"])


def test_many_documents_are_encoded_in_batches() -> None:
    text = encode_documents(TOKENIZER, (f"w{1 + i % 60}" for i in range(4_500)))
    assert text.num_documents == 4_500
    assert text.tokens[::2].tolist() == [1 + i % 60 for i in range(4_500)]


def test_documents_from_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n<|endoftext|>\nthree\n\nfour\n")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "b.jsonl").write_text('{"text": "five\\nsix"}\n\n{"text": "seven é"}\n', encoding="utf-8")
    (tmp_path / ".hidden").write_text("ignored")
    assert list(read_documents(tmp_path)) == ["one\ntwo", "three\n\nfour", "five\nsix", "seven é"]
    assert list(read_documents(tmp_path / "a.txt")) == ["one\ntwo", "three\n\nfour"]


def test_text_that_is_not_there_or_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no pretraining text"):
        list(read_documents(tmp_path / "nothing"))
    with pytest.raises(MissingError, match="no such file in it"):
        list(read_documents(tmp_path))
    file = tmp_path / "a.jsonl"
    for bad in ("not json", '["a"]', '{"words": "a"}', '{"text": null}', "3"):
        file.write_text('{"text": "good"}\n' + bad + "\n")
        documents = read_documents(file)
        assert next(documents) == "good"
        with pytest.raises(DataError, match="cannot be read") as caught:
            next(documents)
        assert caught.value.where == f"{file}:2"
    file.write_bytes(json.dumps({"text": "good"}).encode() + b'\n{"text": "\xff\xfe"}\n')
    with pytest.raises(DataError, match="cannot be read"):
        list(read_documents(file))


def test_names_in_capitals_gzip_and_byte_order_marks_are_read(tmp_path: Path) -> None:
    (tmp_path / "A.TXT").write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfthree"))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'\xef\xbb\xbf{"text": "four"}\n'))
    assert list(read_documents(tmp_path)) == ["one\ntwo", "three", "four"]


def test_other_files_of_the_folder_are_named(tmp_path: Path) -> None:
    for name in ("a.txt", "notes.md", "b.csv"):
        (tmp_path / name).write_text("text")
    with pytest.raises(DataError) as caught:
        list(read_documents(tmp_path))
    assert caught.value.got == "b.csv, notes.md"


@pytest.mark.parametrize(
    ("content", "offset"),
    [("ok\ncaf\xe9\n".encode("cp1252"), 6), ("text".encode("utf-16"), 0), ("text".encode("utf-16-le"), 1), (b"ok\nab\0", 5)],
)
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_text_in_another_encoding_is_refused_with_its_place(tmp_path: Path, content: bytes, offset: int, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(DataError, match="not UTF-8") as caught:
        list(read_documents(tmp_path))
    assert str(caught.value.got).endswith(f"at offset {offset}")
    line = content[:offset].count(b"\n") + 1
    assert caught.value.where == f"{tmp_path / name}:{line}"
    assert "pretraining_encoding" in str(caught.value.next_step)


def test_a_text_that_no_tokenizer_takes_is_refused(tmp_path: Path) -> None:
    for text in (r"a\u0000b", r"half \ud83d"):
        (tmp_path / "a.jsonl").write_text(f'{{"text": "{text}"}}')
        with pytest.raises(DataError, match="cannot be read"):
            list(read_documents(tmp_path))


FRENCH = "Un café, s'il vous plaît.\n<|endoftext|>\nÉté après été: où êtes-vous?\r\nÀ bientôt."


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize("encoding", ["windows-1252", "utf-16", "utf-16-le", "latin-1", "cp850", "UTF8", "utf-8-sig"])
def test_text_in_the_encoding_that_is_named(tmp_path: Path, name: str, encoding: str) -> None:
    documents = ["Un café, s'il vous plaît.", "Été après été: où êtes-vous?\nÀ bientôt."]
    as_rows = "".join(json.dumps({"text": document}, ensure_ascii=False) + "\n" for document in documents)
    content = (as_rows if "jsonl" in name else FRENCH).encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert list(read_documents(tmp_path, encoding=encoding)) == documents


def test_a_byte_order_mark_is_no_text_in_any_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffété".encode("utf-16-be"))
    assert list(read_documents(tmp_path, encoding="utf-16-be")) == ["été"]


@pytest.mark.parametrize(
    ("content", "encoding", "line", "got"),
    [
        ("ok\n日本\n".encode("shift_jis") + b"\x81", "shift_jis", 3, "incomplete multibyte sequence at offset 8"),
        ("ok\nétéété été\n".encode(), "windows-1252", 2, "text that reads as UTF-8"),
        ("ok\nétéété été\n".encode("utf-16-le"), "windows-1252", 1, "a NUL character"),
        ("ok\nça\n".encode("latin-1"), "ascii", 2, "ordinal not in range(128) at offset 3"),
        (b"ok\nod", "utf-16-le", 2, "truncated data at offset 4"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_text_that_is_not_in_the_encoding_that_is_named(
    tmp_path: Path, content: bytes, encoding: str, line: int, got: str, name: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"not in the encoding {encoding}") as caught:
        list(read_documents(tmp_path, encoding=encoding))
    assert got in str(caught.value.got)
    assert caught.value.where == f"{tmp_path / name}:{line}"


def test_a_broken_row_in_another_encoding_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes('{"text": "é"}\n\n{"text": "é}\n'.encode("latin-1"))
    with pytest.raises(DataError, match="cannot be read") as caught:
        list(read_documents(tmp_path, encoding="latin-1"))
    assert caught.value.where == f"{tmp_path / 'a.jsonl'}:3"


def test_a_few_characters_that_could_be_utf8_are_no_proof(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Â© 1998".encode("latin-1"))  # these two bytes are "©" in UTF-8
    assert list(read_documents(tmp_path, encoding="latin-1")) == ["Â© 1998"]
