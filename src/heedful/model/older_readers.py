"""Make a folder that transformers 5 wrote readable by transformers 4.57 too.

Version 5 keeps the rotary settings in ``rope_parameters``, which 4.57 silently ignores: it would read a Llama whose
``rope_theta`` is 500,000 with 10,000. Version 5 also names tokenizer classes that 4.57 does not know. With the settings added
here, both versions load the same model and produce the same tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PLAIN_ROPE = "default"


def write_for_older_readers(folder: Path) -> None:
    """Add 4.57's names to ``config.json`` and ``tokenizer_config.json`` of a saved model."""
    _rewrite(folder / "config.json", _with_older_names)
    if (folder / "tokenizer.json").is_file():
        _rewrite(folder / "tokenizer_config.json", _with_known_class)


def _with_older_names(config: dict[str, Any]) -> dict[str, Any]:
    config = config | _older_rope(config)
    return config | {"torch_dtype": config["dtype"]} if "dtype" in config else config


def _older_rope(config: dict[str, Any]) -> dict[str, Any]:
    rope = config.get("rope_parameters")
    if not rope:
        return {}
    if "full_attention" in rope:  # Gemma 3: frequencies for each kind of layer
        full, local = rope["full_attention"], rope.get("sliding_attention", {})
        older = {"rope_theta": full["rope_theta"], "rope_scaling": _older_scaling(full)}
        return older | ({"rope_local_base_freq": local["rope_theta"]} if "rope_theta" in local else {})
    older: dict[str, Any] = {"rope_scaling": _older_scaling(rope)}
    if config.get("model_type") == "gpt_neox":
        older |= {"rotary_emb_base": rope["rope_theta"], "rotary_pct": rope.get("partial_rotary_factor", 1.0)}
    else:
        older |= {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}
    if rope.get("rope_type") == "longrope" and "original_max_position_embeddings" in rope:
        older["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
    if config.get("model_type") == "phi3" and older["rope_scaling"]:  # 4.57 accepts exactly these three
        scaling = older["rope_scaling"]
        older["rope_scaling"] = {
            "type": scaling["rope_type"],
            "short_factor": scaling["short_factor"],
            "long_factor": scaling["long_factor"],
        }
    return older


def _older_scaling(rope: dict[str, Any]) -> dict[str, Any] | None:
    """``rope_scaling``, which 4.57 reads in place of ``rope_parameters``; None for plain rotary positions."""
    if rope.get("rope_type", _PLAIN_ROPE) == _PLAIN_ROPE:
        return None
    return {key: value for key, value in rope.items() if key not in ("rope_theta", "partial_rotary_factor")}


def _with_known_class(settings: dict[str, Any]) -> dict[str, Any]:
    """Name a tokenizer class that both versions know and that does exactly what tokenizer.json says.

    4.57's own class for Llama would add a begin-of-text token that tokenizer.json does not add. The list that 5 writes as
    ``extra_special_tokens`` is called ``additional_special_tokens`` in 4.57.
    """
    settings = settings | {"tokenizer_class": "PreTrainedTokenizerFast"}
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    return settings


def _rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(change(settings), indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
