"""Models of a few thousand weights and a tokenizer of 64 words, made on the spot: tests need no network and no files."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor, nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from heedful.model import Engine, Generation
from heedful.model.attention import use_heedful_attention
from heedful.model.fast.fused_modules import unfuse

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
    return shaken(GPT2LMHeadModel(config), seed, scale, heedful)


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
    return shaken(LlamaForCausalLM(config), seed, scale, heedful)


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
    return shaken(GPTNeoXForCausalLM(config), seed, scale, heedful)


_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": END,
    "eos_token_id": END,
    "pad_token_id": None,
}
_GROUPED: dict[str, Any] = {**_SHAPE, "intermediate_size": 48, "num_key_value_heads": 2}
WINDOW = 8
"""Positions that the sliding-window layers of the tiny models see."""


def tiny_opt(seed: int = 0, *, heedful: bool = True, scale: float = 0.3) -> PreTrainedModel:
    """OPT: learned positions that start at 2, queries scaled before attention, dropout kept as numbers."""
    return shaken(OPTForCausalLM(OPTConfig(**_SHAPE, ffn_dim=48, word_embed_proj_dim=32)), seed, scale, heedful)


def tiny_opt_projected(
    seed: int = 0, *, heedful: bool = True, scale: float = 0.3, norm_before: bool = False
) -> PreTrainedModel:
    """OPT-350m's variant: norms after the branches (unless norm_before), embeddings narrower than the model."""
    config = OPTConfig(**_SHAPE, ffn_dim=48, word_embed_proj_dim=16, do_layer_norm_before=norm_before)
    return shaken(OPTForCausalLM(config), seed, scale, heedful)


def tiny_qwen2(seed: int = 0, *, heedful: bool = True, scale: float = 0.3) -> PreTrainedModel:
    """Qwen2: biases on queries, keys and values; the second layer has a sliding window."""
    config = Qwen2Config(**_GROUPED, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)
    return shaken(Qwen2ForCausalLM(config), seed, scale, heedful)


def tiny_qwen3(seed: int = 0, *, heedful: bool = True, scale: float = 0.3) -> PreTrainedModel:
    """Qwen3: norms on queries and keys, heads wider than hidden width / heads."""
    return shaken(Qwen3ForCausalLM(Qwen3Config(**_GROUPED, head_dim=16)), seed, scale, heedful)


def tiny_gemma(seed: int = 0, *, heedful: bool = True, scale: float = 0.3) -> PreTrainedModel:
    """Gemma: scaled embeddings, norms whose weight is an offset from one."""
    return shaken(GemmaForCausalLM(GemmaConfig(**_GROUPED, head_dim=16)), seed, scale, heedful)


def tiny_gemma2(seed: int = 0, *, heedful: bool = True, scale: float = 0.3, softcap: float | None = None) -> PreTrainedModel:
    """Gemma 2: norms before and after each branch, the first layer with a sliding window; capped logits only when asked."""
    config = Gemma2Config(
        **_GROUPED, head_dim=16, sliding_window=WINDOW, attn_logit_softcapping=softcap, final_logit_softcapping=softcap
    )
    return shaken(Gemma2ForCausalLM(config), seed, scale, heedful)


def tiny_gemma3(seed: int = 0, *, heedful: bool = True, scale: float = 0.3) -> PreTrainedModel:
    """Gemma 3 (text): one layer of each kind, sliding window and full, each with rotary frequencies of its own."""
    config = Gemma3TextConfig(
        **_GROUPED, head_dim=16, sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"]
    )
    return shaken(Gemma3ForCausalLM(config), seed, scale, heedful)


def tiny_mistral(seed: int = 0, *, heedful: bool = True, scale: float = 0.3, window: int | None = WINDOW) -> PreTrainedModel:
    """Mistral: every layer has a sliding window."""
    return shaken(MistralForCausalLM(MistralConfig(**_GROUPED, sliding_window=window)), seed, scale, heedful)


FAMILIES: list[Callable[[], PreTrainedModel]] = [
    tiny_gpt2,
    tiny_neox,
    tiny_opt,
    tiny_opt_projected,
    tiny_llama,
    tiny_qwen2,
    tiny_qwen3,
    tiny_gemma,
    tiny_gemma2,
    tiny_gemma3,
    tiny_mistral,
]
"""Every supported model family (docs/families.md)."""


def plain(model: PreTrainedModel, implementation: str = "eager") -> PreTrainedModel:
    """A copy of the model that is a plain transformers model, with none of Heedful's attention and loops."""
    twin = copy.deepcopy(model)
    twin.set_attn_implementation(implementation)
    unfuse(twin)
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


def shaken(model: PreTrainedModel, seed: int, scale: float, heedful: bool) -> PreTrainedModel:
    """The model with random weights of a size at which each shows in the outputs; ``heedful``: with Heedful's attention."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = any(part in name for part in ("ln_", "layernorm", "layer_norm", "norm.")) and name.endswith("weight")
            centre = 0.0 if "gemma" in model.config.model_type else 1.0  # Gemma's norms multiply by one plus the weight
            parameter.copy_(centre + 0.1 * noise if is_norm else scale * noise)
    model.eval()
    return use_heedful_attention(model) if heedful else model


def finished(engine: Engine) -> dict[int, Generation]:
    """Let an engine make one step; returns the requests that finished in it, by number."""
    return {step.number: step.generation for step in engine.step() if step.generation is not None}
