"""OpenAI's routes as an OpenAPI description, for schemathesis: made of the very models that check the bodies."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from heedful.serve.request_bodies import ChatBody, CompletionBody, DetokenizeBody, ScoreBody, TokenizeBody

BODIES: dict[str, type[BaseModel]] = {
    "/v1/completions": CompletionBody,
    "/v1/chat/completions": ChatBody,
    "/v1/score": ScoreBody,
    "/tokenize": TokenizeBody,
    "/detokenize": DetokenizeBody,
}
_TEXTS = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3}
_TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 300}, "minItems": 1, "maxItems": 20}
_MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"enum": ["system", "user", "assistant"]}, "content": {"type": "string"}},
}
_SMALL = {
    "n": {"type": "integer", "minimum": 1, "maximum": 2},
    "best_of": {"type": "integer", "minimum": 1, "maximum": 3},
    "max_tokens": {"type": "integer", "minimum": 1, "maximum": 4},
    "max_completion_tokens": {"type": "integer", "minimum": 1, "maximum": 4},
    "prompt": {"anyOf": [{"type": "string"}, _TEXTS, _TOKENS]},
    "messages": {"type": "array", "items": _MESSAGE, "minItems": 1, "maxItems": 4},
    "tokens": _TOKENS,
}
"""Fields whose own schema says too little, or allows what takes long."""


def description(models: list[str], paths: list[str], *, reward: str | None = None) -> dict[str, Any]:
    """The description of some of the routes; ``reward``: the model that only scores."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "models", "version": "1"},
        "paths": {
            path: {"post": _operation(BODIES[path], [reward] if path == "/v1/score" else models, reward)} for path in paths
        },
    }


def _operation(body: type[BaseModel], models: list[Any], reward: str | None) -> dict[str, Any]:
    schema = body.model_json_schema()
    definitions = schema.pop("$defs", {})
    for name, small in _SMALL.items():
        if name in schema["properties"]:
            schema["properties"][name] = small
    schema["properties"]["model"] = {"enum": models}
    if "reward_model" in schema["properties"]:
        schema["properties"]["reward_model"] = {"enum": [reward or "none"]}
    if "stream_options" in schema["properties"]:
        schema["properties"]["stream_options"] = definitions["StreamOptions"]
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}, "responses": {"200": {"description": "whole"}}}
