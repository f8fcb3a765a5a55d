"""Our model class for lm-evaluation-harness, its own HFLM and plain transformers on real benchmark items."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.evaluate.benchmarks.test_harness_model import ends_at_once, write_llama
from tests.real.test_benchmarks import data  # noqa: F401  (a fixture)
from tests.real.test_import import pytestmark, real  # noqa: F401  (pytestmark marks this file too)
from transformers import AutoModelForCausalLM, GPT2Tokenizer

from heedful.evaluate.benchmarks.series import series_of
from heedful.evaluate.benchmarks.task_table import task_named
from heedful.model import save_model
from heedful.model.inference import load_policy
from heedful.model.scratch import new_gpt2

pytest.importorskip("lm_eval", reason="lm-evaluation-harness (extra benchmarks) is not installed")

from lm_eval.api.instance import Instance
from lm_eval.models import huggingface

from heedful.evaluate.benchmarks.harness_model import HarnessModel

HFLM: Any = huggingface.HFLM  # a decorator of its own hides its type
TASKS = ("sst", "rte", "boolq", "arc_challenge", "winograd")


def gpt2(folder: Path) -> Path:
    """A small random model with GPT-2's own tokenizer."""
    files: Any = {"vocab": str(real("gpt2_bpe/encoder.json")), "merges": str(real("gpt2_bpe/vocab.bpe"))}
    tokenizer: Any = GPT2Tokenizer(**files)
    assert tokenizer("Hello world")["input_ids"] == [15496, 995]
    model = new_gpt2(tokenizer, layers=2, width=64, heads=2, context_length=1024, seed=1)
    save_model(model, tokenizer, folder)
    return folder


def real_model() -> Path:
    folder = os.environ.get("HEEDFUL_REAL_MODEL")
    if not folder:
        pytest.skip("HEEDFUL_REAL_MODEL names no folder with a language model")
    return Path(folder)


def ending_at_once(folder: Path) -> Path:
    """The same, but whatever it is asked, it says its end-of-text token."""
    policy, tokenizer = load_policy(gpt2(folder / "base"))
    ends_at_once(policy, tokenizer, weight=0.5)  # log-likelihoods of thousands would have no fourth decimal in float32
    save_model(policy, tokenizer, folder)
    return folder


MODELS: dict[str, tuple[Callable[[Path], Path], int]] = {
    "GPT-2": (gpt2, 6),
    "Llama": (lambda folder: write_llama(folder, context_length=1024), 6),  # its tokenizer puts a token in front of every text
    "ends at once": (ending_at_once, 3),
    "real": (lambda _: real_model(), 2),
}
"""Kind of model -> what makes its folder, and the number of items of each task."""


@pytest.mark.parametrize("kind", MODELS)
def test_real_items(kind: str, data: Path, tmp_path: Path) -> None:  # noqa: F811
    """Ours and HFLM at batches of 1, 4 and 16, plain transformers one by one: log-likelihood and is_greedy of every pair."""
    make, count = MODELS[kind]
    folder = make(tmp_path / "model")
    pairs = [
        pair
        for name in TASKS
        for item in series_of(task_named(name), "zero-shot", data, limit=count).items
        for pair in item.pairs
    ]
    asked = [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0) for pair in pairs]
    policy, tokenizer = load_policy(folder)
    encode: Any = tokenizer
    begins = bool(encode("")["input_ids"])
    expected = in_plain_transformers(folder, encode, pairs)
    for size in (1, 4, 16):
        theirs = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=size, add_bos_token=begins)
        for found in (
            HarnessModel(policy, tokenizer, batch_size=size).loglikelihood(asked, disable_tqdm=True),
            theirs.loglikelihood(asked, disable_tqdm=True),
        ):
            for (total, greedy), (other, other_greedy), pair in zip(found, expected, pairs, strict=True):
                assert total == pytest.approx(other, abs=1e-4), (size, pair)
                assert greedy == other_greedy, (size, pair)


def in_plain_transformers(folder: Path, tokenizer: Any, pairs: list[tuple[str, str]]) -> list[tuple[float, bool]]:
    """Of each pair the log-likelihood, and whether every token is the likeliest; a long context loses its beginning."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    longest = model.config.max_position_embeddings
    found: list[tuple[float, bool]] = []
    for context, continuation in pairs:
        head, whole = tokenizer(context)["input_ids"], tokenizer(context + continuation)["input_ids"]
        tail = torch.tensor(whole[len(head) :])
        with torch.no_grad():
            logits = model(torch.tensor([whole[-(longest + 1) :][:-1]])).logits[0, -len(tail) :]
        total = float(torch.log_softmax(logits, -1).gather(1, tail[:, None]).sum())
        found.append((total, bool((logits.argmax(-1) == tail).all())))
    return found
