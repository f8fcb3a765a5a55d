"""Hugging Face causal language models, fed without padding: loading, heads, batch layouts, precision and generation."""

from heedful.model.attention import use_heedful_attention
from heedful.model.doctor import examine, quick_check
from heedful.model.dropout import set_residual_dropout
from heedful.model.engine.sampling import Sampling, request_seeds
from heedful.model.engine.scheduler import Engine, Generation, generate
from heedful.model.engine.vllm_engine import EngineName, generator
from heedful.model.fast.allocator import give_back_memory, keep_large_temporaries
from heedful.model.layouts import PackedBatch, pack, pack_documents, pack_shared, packed_hidden
from heedful.model.loading import check_tokenizer, load_causal_model, load_scalar_model, load_tokenizer, unembedding
from heedful.model.lora import (
    add_adapter,
    copy_sharing_base,
    is_adapted,
    load_trained_state,
    merged,
    save_adapter,
    share_equal_tensors,
    trained_state,
)
from heedful.model.precision import MasterWeights, Precision, frozen, update_average
from heedful.model.saving import ASIDE, remove_leftovers, save_model, write_folder
from heedful.model.scalar_models import scalar_head, scalar_model_from_causal, scalar_offset, shift_scalar_model
from heedful.model.scratch import new_gpt2, train_tokenizer

__all__ = [
    "ASIDE",
    "Engine",
    "EngineName",
    "Generation",
    "MasterWeights",
    "PackedBatch",
    "Precision",
    "Sampling",
    "add_adapter",
    "check_tokenizer",
    "copy_sharing_base",
    "examine",
    "frozen",
    "generate",
    "generator",
    "give_back_memory",
    "is_adapted",
    "keep_large_temporaries",
    "load_causal_model",
    "load_scalar_model",
    "load_tokenizer",
    "load_trained_state",
    "merged",
    "new_gpt2",
    "pack",
    "pack_documents",
    "pack_shared",
    "packed_hidden",
    "quick_check",
    "remove_leftovers",
    "request_seeds",
    "save_adapter",
    "save_model",
    "scalar_head",
    "scalar_model_from_causal",
    "scalar_offset",
    "set_residual_dropout",
    "share_equal_tensors",
    "shift_scalar_model",
    "train_tokenizer",
    "trained_state",
    "unembedding",
    "update_average",
    "use_heedful_attention",
    "write_folder",
]
