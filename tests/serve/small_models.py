"""Small models to serve: byte-level tokens, so that most characters are several tokens; a chat model; a reward model."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import httpx
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.listening import listen
from heedful.model.scalar_models import scalar_model_from_causal
from heedful.model.scratch import new_gpt2, train_tokenizer
from heedful.serve.access_keys import AccessKey
from heedful.serve.served_models import ServedModel
from heedful.serve.server import DrainingServer, make_server, url_of
from heedful.serve.serving_state import Limits

CONTEXT = 256
TEXTS = (
    "The cat sat on the mat. The dog ran to the river. ",
    "Name three rivers. The Rhine, the Nile and the Amazon. ",
    "今天天气很好。猫坐在垫子上。",
    "Grüße aus Köln! Ça va très bien, œuvre. ",
    "🙂👍🏽🎉 It is fine! 👩‍👩‍👧 ",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(TEXTS * 20, vocabulary_size=384, context_length=CONTEXT)


@cache
def chat_tokenizer() -> PreTrainedTokenizerBase:
    made = train_tokenizer(TEXTS * 20, vocabulary_size=380, context_length=CONTEXT)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.chat_template = CHAT_TEMPLATE
    return made


def small_gpt2(tokens: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """Weights so large that the model has preferences."""
    model = new_gpt2(tokens, layers=2, width=64, heads=2, context_length=CONTEXT, seed=seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln_" not in name and name.endswith("weight"):
                parameter.mul_(4)
    return model.eval().requires_grad_(False)


@cache
def models() -> dict[str, ServedModel]:
    """``plain`` and ``chat`` write, ``reward`` scores."""
    plain, chat = small_gpt2(tokenizer(), 1), small_gpt2(chat_tokenizer(), 2)
    torch.manual_seed(3)
    scalar = scalar_model_from_causal(small_gpt2(tokenizer(), 3), pad_token_id=None, eos_token_id=0)
    scalar.requires_grad_(False)
    return {
        "plain": ServedModel(name="plain", model=plain, tokenizer=tokenizer(), template="plain"),
        "chat": ServedModel(name="chat", model=chat, tokenizer=chat_tokenizer(), template="chat"),
        "reward": ServedModel(name="reward", model=scalar, tokenizer=tokenizer(), template="plain", scores=True),
    }


@contextmanager
def served(
    limits: Limits | None = None, keys: Sequence[AccessKey] = (), *, names: Sequence[str] = ("plain", "chat", "reward")
) -> Iterator[tuple[str, DrainingServer]]:
    """A server in a thread of its own: its address, and itself."""
    listener = listen("127.0.0.1", 0, command="heedful serve")
    server = make_server({name: models()[name] for name in names}, limits or Limits(), keys)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield url_of(listener), server
    finally:
        server.stop()
        thread.join(timeout=60)
        listener.close()
        assert not thread.is_alive(), "the server did not end"


HTTP = httpx.Client(timeout=120, limits=httpx.Limits(max_keepalive_connections=0))
"""One for all tests: each new one reads certificates for a tenth of a second. A new connection for each request."""
