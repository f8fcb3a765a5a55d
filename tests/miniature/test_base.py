from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from heedful.miniature import base
from heedful.miniature.invented_world import World

WORLD = World(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pretrained")


def test_a_smaller_size_trains_on_the_first_documents_of_the_same_corpus(folder: Path) -> None:
    tokenizer = base.shared_tokenizer(WORLD, folder / "tokenizer")
    all_of_it = base.encoded_corpus(WORLD, tokenizer, 60, folder / "work")
    some = base.encoded_corpus(WORLD, tokenizer, 40, folder / "work")
    assert [file.name for file in (folder / "work").iterdir()] == ["text-000000060.npz"]  # nothing was encoded again
    assert some.num_documents == 40
    assert np.array_equal(some.tokens, all_of_it.tokens[: len(some.tokens)])
    alone = base.encoded_corpus(WORLD, tokenizer, 40, folder / "other")
    assert np.array_equal(alone.tokens, some.tokens)
    assert np.array_equal(alone.offsets, some.offsets)
