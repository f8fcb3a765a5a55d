"""Run models with rotary positions and gated feed-forward blocks as one compiled pass, for generation on a CPU.

Llama (and SmolLM), Qwen2, Qwen3, Mistral and Gemma 1 to 3 differ in biases, norms, windows and scaled embeddings; the pass
implements each of these once (:mod:`heedful.functional.fast.decoder`). On another device, or with another architecture or an
altered module, a model runs through its Hugging Face class, which is the plain version.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from heedful.functional.fast.decoder import Decoder, DecoderWeights, LayerWeights, Weight, can_decode
from heedful.model.fast.last_layer import has_other_hooks

# Model types, and the prefix of their classes' names.
_FAMILIES = {
    "llama": "Llama",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "mistral": "Mistral",
    "gemma": "Gemma",
    "gemma2": "Gemma2",
    "gemma3_text": "Gemma3",
}
_PARTS = ("Model", "TextModel", "DecoderLayer", "Attention", "MLP", "RMSNorm", "RotaryEmbedding", "TextScaledWordEmbedding")
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
# Kinds of rotary positions that change with the longest sequence, so no table can hold them.
_CHANGING = ("dynamic", "longrope")


def rotary_decoder(model: PreTrainedModel) -> Decoder | None:
    """This model as a compiled pass, or None if the pass would compute something else; then the model's class must run."""
    config = cast(Any, model.config)
    prefix = _FAMILIES.get(config.model_type)
    if prefix is None or type(model).__name__ != f"{prefix}ForCausalLM":
        return None
    body, head = cast(Any, model).model, cast(Any, model).lm_head
    activation = _activation(body.layers[0].mlp.act_fn)
    if activation is None or not _is_written_out(model, prefix, activation):
        return None
    if getattr(config, "attn_logit_softcapping", None) or getattr(config, "final_logit_softcapping", None):
        return None
    if getattr(config, "use_bidirectional_attention", None) or head.bias is not None or _changes(config):
        return None
    weights = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    if not can_decode(weights[0]) or any(w.dtype != weights[0].dtype or w.shape[1] % 2 for w in weights):
        return None
    if body.layers[0].self_attn.head_dim % 2:
        return None
    return Decoder(_weights(model, _ACTIVATIONS[activation]))


def _activation(module: nn.Module) -> str | None:
    """transformers' name of the activation, or None if the pass does not implement it."""
    return next((name for name in _ACTIVATIONS if type(ACT2FN[name]) is type(module)), None)


def _is_written_out(model: PreTrainedModel, prefix: str, activation: str) -> bool:
    """Whether the pass implements every module. Adapters and hooks compute something that the weights do not show."""
    module_name = f"transformers.models.{prefix.lower()}.modeling_{prefix.lower()}"
    parts = {f"{prefix}{part}" for part in _PARTS}
    general = {nn.Linear, nn.Embedding, nn.ModuleList, type(ACT2FN[activation])}
    for module in model.modules():
        kind = type(module)
        ours = kind.__module__ == module_name and kind.__name__ in parts
        if not (ours or kind in general or module is model):
            return False
        epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", model.config.rms_norm_eps))
        if has_other_hooks(module) or "forward" in vars(module) or epsilon != model.config.rms_norm_eps:
            return False
    return True


def _changes(config: Any) -> bool:
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    return any(kind.get("rope_type") in _CHANGING or kind.get("partial_rotary_factor", 1) != 1 for kind in kinds)


def _weights(model: PreTrainedModel, activation: str) -> DecoderWeights:
    config, body = cast(Any, model.config), cast(Any, model).model
    offset = 1.0 if config.model_type.startswith("gemma") else 0.0
    kinds = _rotary_kinds(body)
    embedding: Tensor = body.embed_tokens.weight.detach()
    scale = getattr(body.embed_tokens, "embed_scale", None)
    attention = body.layers[0].self_attn
    return DecoderWeights(
        embedding=embedding,
        embedding_scale=1.0 if scale is None else float(scale.to(embedding.dtype)),
        layers=[_layer(config, layer, offset, kinds) for layer in body.layers[: config.num_hidden_layers]],
        final_norm=body.norm.weight.detach().float() + offset,
        head=cast(Any, model).lm_head.weight.detach(),
        heads=config.num_attention_heads,
        key_heads=config.num_key_value_heads,
        activation=activation,
        epsilon=config.rms_norm_eps,
        scaling=attention.scaling,
        rotary=[partial(_table, body.rotary_emb, kind, embedding) for kind in kinds],
    )


def _rotary_kinds(body: Any) -> list[str | None]:
    """The kinds of layers that the rotary module distinguishes (Gemma 3), or [None]."""
    if "layer_type" in inspect.signature(body.rotary_emb.forward).parameters:
        return sorted({layer.self_attn.layer_type for layer in body.layers})
    return [None]


def _layer(config: Any, layer: Any, offset: float, kinds: list[str | None]) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp

    def norm(owner: Any, name: str) -> Tensor | None:
        module = getattr(owner, name, None)
        return None if module is None else module.weight.detach().float() + offset

    around = hasattr(layer, "pre_feedforward_layernorm")  # Gemma 2 and 3: norms before and after each branch
    before_attention = norm(layer, "input_layernorm")
    before_mlp = norm(layer, "pre_feedforward_layernorm" if around else "post_attention_layernorm")
    assert before_attention is not None
    assert before_mlp is not None
    mistral = config.model_type == "mistral"
    return LayerWeights(
        queries=_linear(attention.q_proj),
        keys=_linear(attention.k_proj),
        values=_linear(attention.v_proj),
        attention_output=_linear(attention.o_proj),
        gate=_linear(mlp.gate_proj),
        up=_linear(mlp.up_proj),
        contract=_linear(mlp.down_proj),
        norm_before_attention=before_attention,
        norm_before_mlp=before_mlp,
        query_norm=norm(attention, "q_norm"),
        key_norm=norm(attention, "k_norm"),
        norm_after_attention=norm(layer, "post_attention_layernorm") if around else None,
        norm_after_mlp=norm(layer, "post_feedforward_layernorm") if around else None,
        rotary=kinds.index(attention.layer_type) if len(kinds) > 1 or kinds[0] is not None else 0,
        window=config.sliding_window if mistral else getattr(attention, "sliding_window", None),
    )


def _linear(module: nn.Linear) -> Weight:
    return Weight(module.weight.detach(), None if module.bias is None else module.bias.detach())


@torch.no_grad()
def _table(rotary: Callable[..., tuple[Tensor, Tensor]], kind: str | None, like: Tensor, positions: int) -> Tensor:
    """[positions, head width]: cosines and sines of half a head (the other half has the same), rounded like the model's."""
    numbers = torch.arange(positions)[None]
    cosines, sines = rotary(like, numbers) if kind is None else rotary(like, numbers, kind)
    half = cosines.shape[-1] // 2
    return torch.cat([cosines[0, :, :half], sines[0, :, :half]], dim=-1).float()
