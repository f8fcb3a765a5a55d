"""Hugging Face causal language models that run without padding: loading, heads, batch layouts, precision and generation.

The names below are for users of the library. Heedful's own code imports each name from its module.
"""

from heedful.model.answering import Answerer
from heedful.model.doctor import examine
from heedful.model.engine.sampling import Sampling
from heedful.model.engine.scheduler import Engine, Generation, generate
from heedful.model.engine.vllm_engine import generator
from heedful.model.layouts import PackedBatch, pack, pack_documents, pack_shared, packed_hidden
from heedful.model.loading import load_causal_model, load_scalar_model, load_tokenizer
from heedful.model.lora import add_adapter, merged
from heedful.model.saving import save_model
from heedful.model.scalar_models import scalar_model_from_causal
from heedful.model.template import prompt_tokens, response_tokens

__all__ = [
    "Answerer",
    "Engine",
    "Generation",
    "PackedBatch",
    "Sampling",
    "add_adapter",
    "examine",
    "generate",
    "generator",
    "load_causal_model",
    "load_scalar_model",
    "load_tokenizer",
    "merged",
    "pack",
    "pack_documents",
    "pack_shared",
    "packed_hidden",
    "prompt_tokens",
    "response_tokens",
    "save_model",
    "scalar_model_from_causal",
]
