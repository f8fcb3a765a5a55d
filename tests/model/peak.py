"""Loading for PPO with adapters, in a process of its own: ``python -m tests.model.peak make|once|twice FOLDER``.

``make`` writes a policy and a reward model, both adapters on one base, and prints the number of weights. ``once`` loads both in
the compute type, ``twice`` by way of float32; each prints the bytes that it took at its peak and that it holds at the end.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any, cast

import torch
from tests.planning.measured import resident
from tests.tiny import END, tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from heedful.model import add_adapter, load_causal_model, load_scalar_model, save_model, scalar_model_from_causal
from heedful.model.lora import share_equal_tensors
from heedful.model.precision import Precision

RANK = 4
CONFIG = LlamaConfig(
    vocab_size=4_096,
    hidden_size=768,
    intermediate_size=2_048,
    num_hidden_layers=8,
    num_attention_heads=12,
    bos_token_id=END,
    eos_token_id=END,
    tie_word_embeddings=False,
)


def make(folder: Path) -> dict[str, int]:
    save_model(cast(PreTrainedModel, LlamaForCausalLM(CONFIG)), tiny_tokenizer(), folder / "base")
    policy = add_adapter(load_causal_model(folder / "base", "bfloat16"), RANK, "bfloat16")
    reward_model = scalar_model_from_causal(load_causal_model(folder / "base", "bfloat16"), pad_token_id=None, eos_token_id=END)
    add_adapter(reward_model, RANK, "bfloat16", seed=1)
    save_model(policy, tiny_tokenizer(), folder / "policy")
    save_model(reward_model, tiny_tokenizer(), folder / "rm")
    weights = sum(p.numel() for p in policy.parameters() if not p.requires_grad)
    return {"weights": weights, "body": sum(p.numel() for p in policy.base_model.parameters() if not p.requires_grad)}


def load(folder: Path, precision: Precision) -> dict[str, int]:
    import peft  # noqa: F401

    add_adapter(
        cast(PreTrainedModel, LlamaForCausalLM(LlamaConfig(**cast("dict[str, Any]", SMALL)))), RANK, "bfloat16"
    )  # imports what it needs
    before, most, loaded = resident("RssAnon"), [0], threading.Event()

    def watch() -> None:
        while not loaded.is_set():  # VmHWM would count the pages of the model's file, which the system may drop
            most[0] = max(most[0], resident("RssAnon"))
            time.sleep(0.0005)

    watching = threading.Thread(target=watch)
    watching.start()
    models = [load_causal_model(folder / "policy", precision), load_scalar_model(folder / "rm", precision)]
    for model in models:
        add_adapter(model, RANK, "bfloat16")
    saved = share_equal_tensors(*models)
    loaded.set()
    watching.join()
    return {"peak": most[0] - before, "held": resident("RssAnon") - before, "shared": saved}


SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, path = sys.argv[1], Path(sys.argv[2])
    print(json.dumps(make(path) if what == "make" else load(path, "bfloat16" if what == "once" else "float32")))
