"""Models of a few thousand weights and a tokenizer of 64 words, made on the spot: tests need no network and no files."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from heedful.model import use_heedful_attention

VOCABULARY = 64
END = 0
"""The end-of-text token's id; token i > 0 is the word ``w<i>``."""
CONTEXT = 96


def tiny_tokenizer(size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Words w1 w2 ... separated by spaces; token 0 is end-of-text (and, as in GPT-2, begin-of-text too)."""
    words = {"<|endoftext|>": END, **{f"w{i}": i for i in range(1, size)}}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )


def tiny_gpt2(
    seed: int = 0, *, heedful: bool = True, scale: float = 0.3, vocabulary: int = VOCABULARY, heads: int = 4
) -> PreTrainedModel:
    """GPT-2, 2 layers, 32 wide. Its weights and biases are so large that each shows in the outputs."""
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=CONTEXT,
        n_embd=32,
        n_layer=2,
        n_head=heads,
        bos_token_id=END,
        eos_token_id=END,
    )
    return _shaken(GPT2LMHeadModel(config), seed, scale, heedful)


def tiny_llama(seed: int = 0, *, heedful: bool = True, scale: float = 0.3) -> PreTrainedModel:
    """Llama with grouped-query attention (4 query heads, 2 key heads), rotary positions, untied unembedding."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=END,
        eos_token_id=END,
        pad_token_id=None,
        tie_word_embeddings=False,
    )
    return _shaken(LlamaForCausalLM(config), seed, scale, heedful)


def tiny_neox(seed: int = 0, *, heedful: bool = True, scale: float = 0.3) -> PreTrainedModel:
    """GPT-NeoX: parallel residual branches, partly rotary."""
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=END,
        eos_token_id=END,
    )
    return _shaken(GPTNeoXForCausalLM(config), seed, scale, heedful)


def plain(model: PreTrainedModel, implementation: str = "eager") -> PreTrainedModel:
    """A copy of the model that is a plain transformers model, with none of Heedful's attention."""
    twin = copy.deepcopy(model)
    twin.set_attn_implementation(implementation)
    return twin.eval()


def last_hidden(model: PreTrainedModel, tokens: Sequence[int]) -> Tensor:
    """Hidden states [tokens, width] of one sequence by itself, in a plain transformers model."""
    output = cast(nn.Module, model.base_model)(input_ids=torch.tensor([list(tokens)]), use_cache=False)
    return output.last_hidden_state[0]


def parameter_gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    """Gradients of all parameters that have one, copied."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def snapshot(model: PreTrainedModel) -> dict[str, Tensor]:
    """All parameters, copied."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def largest_difference(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    assert left.keys() == right.keys()
    return max(float((left[name].float() - right[name].float()).abs().max()) for name in left)


def _shaken(model: PreTrainedModel, seed: int, scale: float, heedful: bool) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = any(part in name for part in ("ln_", "layernorm", "layer_norm", "norm.")) and name.endswith("weight")
            parameter.copy_(1 + 0.1 * noise if is_norm else scale * noise)
    model.eval()
    return use_heedful_attention(model) if heedful else model
