"""Reward and value models: a causal model whose unembedding is replaced by a projection to one scalar (SPEC 3.3).

They are ``AutoModelForSequenceClassification`` models with one label, so plain transformers can load them.
"""

from __future__ import annotations

from typing import cast

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from heedful.errors import ConfigError, ModelError
from heedful.model.attention import use_heedful_attention
from heedful.model.dropout import decoder_layers
from heedful.model.end_tokens import model_end_tokens
from heedful.model.precision import copy_of_buffers

_OFFSET_KEY = "heedful_reward_offset"


def scalar_model_from_causal(model: PreTrainedModel, *, pad_token_id: int | None, eos_token_id: int) -> PreTrainedModel:
    """The model with its unembedding replaced by an fp32 projection to one scalar (SPEC 3.3).

    The projection starts at N(0, 1/(width+1)), as in OpenAI's lm-human-preferences. Hugging Face's classes read the score at
    the last token that is not padding. If the padding token also ends responses, they would read one token too early; then no
    padding token is set. A float32 body is copied. A bfloat16 body will be frozen, so both models share its tensors.
    Raises ModelError if transformers has no matching ForSequenceClassification class.
    """
    inherited = {k: v for k, v in model.config.to_dict().items() if k not in ("id2label", "label2id")}
    config = AutoConfig.for_model(**{**inherited, "num_labels": 1})
    config.num_labels = 1
    config.pad_token_id = None if pad_token_id in (eos_token_id, *model_end_tokens(model)) else pad_token_id
    config.problem_type = "regression"
    shared = model.dtype != torch.float32
    try:
        with torch.device("meta" if shared else "cpu"):
            scalar = cast(PreTrainedModel, AutoModelForSequenceClassification.from_config(config, dtype=torch.float32))
    except ValueError as error:
        raise ModelError(
            "no reward model can be made from this architecture",
            expected="an architecture for which transformers has a ForSequenceClassification class",
            got=type(model).__name__,
            next_step="use a model of another family: docs/families.md lists them",
        ) from error
    with torch.no_grad():
        missing, unexpected = scalar.base_model.load_state_dict(model.base_model.state_dict(), strict=False, assign=shared)
        if missing or unexpected:
            raise ModelError(
                "the model's body does not fit its sequence classification class",
                expected="the same parameters in both",
                got=f"missing {missing[:3]}, unexpected {unexpected[:3]}",
                next_step="use an architecture for which transformers has a ForSequenceClassification class with the same body",
            )
        head = scalar_head(scalar)
        if shared:
            copy_of_buffers(cast(PreTrainedModel, model.base_model), cast(PreTrainedModel, scalar.base_model))
            head.to_empty(device=model.device)
        head.weight.normal_(0.0, (head.in_features + 1) ** -0.5)
    if "heedful_adapter" in vars(model):
        vars(scalar)["heedful_adapter"] = vars(model)["heedful_adapter"]
    scalar.eval()  # like a loaded model; from_config would leave dropout active
    return use_heedful_attention(scalar)


def scalar_head(model: PreTrainedModel) -> torch.nn.Linear:
    """The projection to one scalar. Raises ModelError if the model's class does not call it ``score``."""
    head = getattr(model, "score", None)
    if not isinstance(head, torch.nn.Linear) or head.out_features != 1:
        raise ModelError(
            "the model has no scalar head",
            expected="a linear layer `score` with one output",
            got=type(model).__name__,
            next_step="use an architecture whose ForSequenceClassification class has one",
        )
    return head


def shift_scalar_model(model: PreTrainedModel, shift: float) -> None:
    """Add a constant to all the model's scores, in place (SPEC 3.3: the bias that gives demonstrations a mean reward of 0).

    Hugging Face's heads have no bias. If the final norm has one (GPT-2, OPT, GPT-NeoX), the constant is folded into that, along
    the head's own direction, and plain transformers gives the shifted scores too. Otherwise the constant is kept in the
    configuration as ``heedful_reward_offset``, and plain transformers' scores differ from ours by it.
    """
    head = scalar_head(model)
    norm = getattr(_final_norm(model), "bias", None)
    with torch.no_grad():
        if head.bias is not None:
            head.bias.add_(shift)
        elif norm is not None and norm.dtype == torch.float32:  # bf16, the type of a frozen base, is too coarse for it
            direction = head.weight[0]
            norm.add_(direction * (shift / direction.square().sum()))
        else:
            setattr(model.config, _OFFSET_KEY, scalar_offset(model) + shift)


def scalar_offset(model: PreTrainedModel) -> float:
    """The constant to add to the head's output; 0 if it was folded into the weights."""
    return float(getattr(model.config, _OFFSET_KEY, 0.0))


def train_last_layers(model: PreTrainedModel, layers: int) -> None:
    """Freeze a scalar model, in place, but for its last ``layers`` layers, the norm after them and the head.

    0: only the head can learn. Raises ConfigError if the model has fewer layers.
    """
    blocks = decoder_layers(model)
    if layers > len(blocks):
        raise ConfigError(
            "trained_layers is more than the model has",
            expected=f"at most {len(blocks)}, the layers of {type(model).__name__}",
            got=str(layers),
            next_step="set a smaller number, or leave trained_layers out to train all weights",
        )
    model.requires_grad_(False)
    scalar_head(model).requires_grad_(True)
    for part in (*blocks[len(blocks) - layers :], *([_final_norm(model)] if layers else [])):
        if part is not None:
            part.requires_grad_(True)


def _final_norm(model: PreTrainedModel) -> torch.nn.Module | None:
    """The norm right before the head, or None."""
    for name in ("ln_f", "final_layer_norm", "norm"):
        for body in (model.base_model, getattr(model.base_model, "decoder", None)):
            if getattr(body, "project_out", None) is not None:  # OPT-350m: a projection stands between norm and head
                return None
            norm = getattr(body, name, None)
            if norm is not None:
                return norm
    return None
