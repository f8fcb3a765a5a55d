"""Our model class for lm-evaluation-harness, its own HFLM and plain transformers on real benchmark items."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
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


@pytest.mark.parametrize("kind", ["GPT-2", "Llama"])
def test_real_items(kind: str, data: Path, tmp_path: Path) -> None:  # noqa: F811
    folder = gpt2(tmp_path / "gpt2") if kind == "GPT-2" else real_model()
    count = 6 if kind == "GPT-2" else 2
    pairs = [
        pair
        for name in TASKS
        for item in series_of(task_named(name), "zero-shot", data, limit=count).items
        for pair in item.pairs
    ]
    asked = [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0) for pair in pairs]
    policy, tokenizer = load_policy(folder)
    begins = bool(tokenizer("")["input_ids"])
    theirs = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1, add_bos_token=begins)
    expected = theirs.loglikelihood(asked, disable_tqdm=True)
    for size in (1, 4, 16):
        found = HarnessModel(policy, tokenizer, batch_size=size).loglikelihood(asked, disable_tqdm=True)
        for (total, greedy), (other, other_greedy), pair in zip(found, expected, pairs, strict=True):
            assert total == pytest.approx(other, abs=1e-4), pair
            assert greedy == other_greedy, pair
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for (context, continuation), (total, _) in list(zip(pairs, expected, strict=True))[:: len(pairs) // 5]:
        head = tokenizer(context)["input_ids"]
        whole = tokenizer(context + continuation)["input_ids"]
        with torch.no_grad():
            logits = plain(torch.tensor([whole])).logits[0, len(head) - 1 : -1]
        tail = torch.tensor(whole[len(head) :])
        assert float(torch.log_softmax(logits, -1).gather(1, tail[:, None]).sum()) == pytest.approx(total, abs=1e-4)
