"""The sizes of a model that determine memory and time. Weights are never created or read.

Parameters are counted on torch's meta device, so the counts are exact for every architecture in transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, GPT2Config, PretrainedConfig, PreTrainedModel

from heedful.errors import MissingError, ModelError
from heedful.miniature.base import CONTEXT_LENGTH, SIZES, VOCABULARY_SIZE
from heedful.model.dropout import decoder_layers
from heedful.model.loading import load_configuration
from heedful.model.lora import linear_layers
from heedful.model_files import how_to_get, is_model, what_is_there

GPT3 = {"gpt3-1.3b": (24, 2_048, 16), "gpt3-6b": (32, 4_096, 32), "gpt3-175b": (96, 12_288, 96)}
"""Layers, width and heads (Brown et al. 2020, Table 2.1). At 1.3B we use 16 heads, because the table's 24 heads of 128 do not
fit its width of 2,048."""
_GPT3_VOCABULARY, _GPT3_CONTEXT = 50_257, 2_048
KNOWN = (*GPT3, *(f"miniature-{size}" for size in SIZES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A causal language model's sizes; ``parameters`` counts tied weights once."""

    name: str
    parameters: int
    block_parameters: int
    """Parameters of one transformer block."""
    layers: int
    width: int
    attention_width: int
    """Query heads times the width of a head."""
    heads: int
    key_width: int
    """Key heads times head width: the KV cache holds twice as many numbers per token and layer, for keys and for values."""
    feed_forward_width: int
    vocabulary: int
    context: int
    tied: bool
    """Whether unembedding and embedding share their weights."""
    gated: bool = False
    """Whether the feed-forward block has a gate (Llama's SwiGLU)."""
    rms_norm: bool = False
    adapted_layers: int = 0
    """Number of linear layers in a block; with LoRA each gets an adapter."""
    adapted_inputs: int = 0
    """The sum of their input widths."""
    adapted_outputs: int = 0
    """The sum of their output widths."""
    elementwise_gelu: bool = False
    """Whether the activation consists of elementwise operations that each keep their input (GPT-2's ``gelu_new``)."""

    @property
    def unembedding(self) -> int:
        """Parameters of the language-model head."""
        return self.vocabulary * self.width

    @property
    def scalar_parameters(self) -> int:
        """Parameters of a reward or value model made from this model: one row replaces the unembedding (SPEC 3.3)."""
        return self.parameters - (0 if self.tied else self.unembedding) + self.width


def shape_of(model: str) -> Shape:
    """The shape of a known model (:data:`KNOWN`), or of a model's folder or GGUF file. Raises MissingError, ModelError."""
    if model in GPT3:
        return shape_of_config(model, _gpt2(*GPT3[model], vocabulary=_GPT3_VOCABULARY, context=_GPT3_CONTEXT))
    size = SIZES.get(model.removeprefix("miniature-")) if model.startswith("miniature-") else None
    if size is not None:
        config = _gpt2(size.layers, size.width, size.heads, vocabulary=VOCABULARY_SIZE, context=CONTEXT_LENGTH)
        return shape_of_config(model, config)
    folder = Path(model).expanduser()
    if not is_model(folder):
        raise MissingError(
            f"no model {model!r}",
            expected=", ".join(KNOWN) + ", a folder in Hugging Face format with config.json, or a GGUF file",
            got=what_is_there(folder),
            next_step=f"give one of these names, or a downloaded model; {how_to_get(model, folder)}",
        )
    return shape_of_config(folder.resolve().name, load_configuration(folder), where=folder)


def shape_of_config(name: str, config: PretrainedConfig, where: Path | None = None) -> Shape:
    """The shape that a Hugging Face configuration describes. Raises ModelError if it is not a causal language model."""
    try:
        with torch.device("meta"):
            model = cast(PreTrainedModel, AutoModelForCausalLM.from_config(config))
        blocks = decoder_layers(model)
    except ModelError as error:
        raise ModelError(
            error.message, expected=error.expected, got=error.got, where=where, next_step="use a decoder-only model"
        ) from None
    except Exception as error:
        raise _unusable(where, error) from error
    c: Any = config
    heads = int(c.num_attention_heads)
    head_width = int(getattr(c, "head_dim", None) or c.hidden_size // heads)
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    output = model.get_output_embeddings()
    activation = (
        getattr(c, "hidden_activation", None) or getattr(c, "activation_function", None) or getattr(c, "hidden_act", "")
    )
    linear = [sizes_of(layer) for _, layer in linear_layers(model)]
    return Shape(
        name=name,
        adapted_layers=len(linear) // len(blocks),
        adapted_inputs=sum(size[0] for size in linear) // len(blocks),
        adapted_outputs=sum(size[1] for size in linear) // len(blocks),
        parameters=sum(p.numel() for p in model.parameters()),
        block_parameters=sum(p.numel() for p in blocks[0].parameters()),
        layers=len(blocks),
        width=int(c.hidden_size),
        attention_width=heads * head_width,
        heads=heads,
        key_width=int(getattr(c, "num_key_value_heads", None) or heads) * head_width,
        feed_forward_width=int(
            getattr(c, "intermediate_size", None)
            or getattr(c, "n_inner", None)
            or getattr(c, "ffn_dim", None)
            or 4 * c.hidden_size
        ),
        vocabulary=int(c.vocab_size),
        context=int(getattr(c, "max_position_embeddings", None) or 2_048),
        tied=output is None or cast(torch.nn.Module, output).weight is model.get_input_embeddings().weight,
        gated="gate_proj" in names,
        rms_norm=any("rmsnorm" in type(module).__name__.lower() for module in model.modules()),
        elementwise_gelu=activation in ("gelu_new", "gelu_fast", "gelu_python_tanh", "gelu_accurate"),
    )


def sizes_of(layer: torch.nn.Module) -> tuple[int, int]:
    """A linear layer's input and output widths."""
    rows, columns = layer.get_parameter("weight").shape
    return (columns, rows) if isinstance(layer, torch.nn.Linear) else (rows, columns)


def _gpt2(layers: int, width: int, heads: int, *, vocabulary: int, context: int) -> GPT2Config:
    return GPT2Config(
        n_layer=layers, n_embd=width, n_head=heads, vocab_size=vocabulary, n_positions=context, activation_function="gelu"
    )


def _unusable(where: Path | None, error: Exception) -> ModelError:
    return ModelError(
        "the configuration cannot be used",
        expected="the config.json of a causal language model that transformers knows",
        got=str(error).partition("\n")[0] or type(error).__name__,
        where=where,
        next_step="check it: AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(FOLDER))",
    )
