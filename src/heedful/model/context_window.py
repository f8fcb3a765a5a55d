"""How long a sequence may be: the context window, and the length at which scaled rotary positions change.

LongRoPE (Phi-3) and dynamic NTK scaling switch to other frequencies if the longest sequence of a batch is longer than the
original window. That would change short sequences in the same row, and invalidate the keys that decoding has already cached.
Sequences longer than the original window are therefore refused. Linear, YaRN and Llama 3 scaling do not depend on the length.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor
from transformers import PreTrainedModel

from heedful.errors import ModelError


def context_window(model: PreTrainedModel) -> int | None:
    """The most tokens that prompt and response may have together, at most the original window; None if there is no limit."""
    window = cast(int | None, getattr(model.config, "max_position_embeddings", None))
    switch = rope_switch(model)
    return switch if window is None else window if switch is None else min(window, switch)


def rope_switch(model: PreTrainedModel) -> int | None:
    """The original window of LongRoPE or dynamic scaling, in tokens, past which frequencies change; None without either."""
    return min((window for _, window in _switches(model)), default=None)


def _switches(model: PreTrainedModel) -> list[tuple[str, int]]:
    """Each kind of rotary positions that depends on the length, and the longest sequence that does not change it."""
    config = cast(Any, model.config)
    rope = getattr(config, "rope_parameters", None) or {}
    default = getattr(config, "original_max_position_embeddings", None)
    found: list[tuple[str, int | None]] = []
    for kind in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if kind.get("rope_type") == "longrope":
            found.append(("LongRoPE", kind.get("original_max_position_embeddings", default)))
        elif "dynamic" in str(kind.get("rope_type")):
            found.append(("dynamic rotary positions", getattr(config, "max_position_embeddings", None)))
    return [(name, window) for name, window in found if window is not None]


def refuse_sequences_past_the_switch(model: PreTrainedModel, attention: str) -> None:
    """Hook the model to raise ModelError if a sequence is past the original window while this attention function is in use."""
    switches = _switches(model)
    if not switches or "heedful_refuses_past_switch" in vars(model):
        return
    name, switch = min(switches, key=lambda found: found[1])

    def check(rotary: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        positions = kwargs["position_ids"] if "position_ids" in kwargs else args[1]
        assert isinstance(positions, Tensor)
        longest = int(positions.max()) + 1
        if rotary.config._attn_implementation == attention and longest > switch:
            raise ModelError(
                f"a sequence is past the original window of {name}",
                expected=f"at most {switch} tokens in prompt and response: a longer one would change all sequences of its row",
                got=f"{longest} tokens",
                next_step="lower max_prompt_tokens, max_response_tokens or the context length in heedful.toml",
            )

    for module in model.modules():
        if type(module).__name__.endswith("RotaryEmbedding"):
            module.register_forward_pre_hook(check, with_kwargs=True)
    vars(model)["heedful_refuses_past_switch"] = True
