"""What clients may send, field by field. A field that is not known or not supported is an error that names it."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from starlette.requests import Request

from heedful.sent_json import read_json
from heedful.serve.api_errors import ApiError, invalid

MOST_BODY_BYTES = 8_000_000
BODY_SECONDS = 60
MOST_CHOICES = 1_024
"""Responses that one request may ask for, all prompts together."""
MOST_STOP_STRINGS = 4
_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,11}")
"""One spelling per id, with few enough digits for Python to parse."""
_LOWEST_TEMPERATURE = 1e-4  # below, the likeliest token is taken

UNSUPPORTED = {
    "suffix": "the models here only continue a text",
    "functions": "tools are not supported",
    "function_call": "tools are not supported",
    "tools": "tools are not supported",
    "tool_choice": "tools are not supported",
    "parallel_tool_calls": "tools are not supported",
    "response_format": "only plain text is supported",
    "modalities": "only text is supported",
    "audio": "only text is supported",
    "prediction": "predicted outputs are not supported",
    "reasoning_effort": "there is no reasoning to control",
    "store": "nothing is stored",
    "metadata": "nothing is stored",
    "service_tier": "there is one service tier",
    "verbosity": "ask for the length in the prompt, or set a limit of tokens",
    "web_search_options": "there is no web search",
    "moderation": "there is no moderation",
}
"""Fields of OpenAI's API that are refused, with the reason."""

Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, Field(le=2**31 - 1)]
Messages = list[dict[str, Any]]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class StreamOptions(_Body):
    """What a stream carries besides the text."""

    include_usage: bool = False
    include_obfuscation: bool = False

    @field_validator("include_obfuscation")
    @classmethod
    def _refuse(cls, value: bool) -> bool:
        if value:
            raise ValueError("streams are not padded")
        return value


class GenerationBody(_Body):
    """The fields that completions and chat completions share.

    top_k and reward_model are ours: with reward_model the ``best_of`` responses are compared by its reward.
    """

    model: str
    n: int = Field(1, ge=1, le=128)
    best_of: int | None = Field(None, ge=1, le=128)
    reward_model: str | None = None
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: Count | None = Field(None, ge=1)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: dict[str, float] = Field(default_factory=dict)
    stop: str | list[str] = Field(default_factory=list)
    seed: Seed | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    safety_identifier: str | None = None

    @field_validator("temperature")
    @classmethod
    def _lowest(cls, value: float) -> float:
        return 0.0 if value < _LOWEST_TEMPERATURE else value

    @field_validator("stop")
    @classmethod
    def _few(cls, value: str | list[str]) -> str | list[str]:
        strings = [value] if isinstance(value, str) else value
        if len(strings) > MOST_STOP_STRINGS:
            raise ValueError(f"at most {MOST_STOP_STRINGS} stop strings, got {len(strings)}")
        if not all(strings):
            raise ValueError("a stop string is empty")
        return strings

    @field_validator("logit_bias")
    @classmethod
    def _biases(cls, value: dict[str, float]) -> dict[str, float]:
        for token, bias in value.items():
            if not _TOKEN_ID.fullmatch(token):
                raise ValueError(f"keys are token ids, got {token[:40]!r}")
            if not -100 <= bias <= 100:
                raise ValueError(f"biases are between -100 and 100, got {bias:g}")
        return value

    @model_validator(mode="after")
    def _together(self) -> GenerationBody:
        if self.stream_options is not None and not self.stream:
            raise _field_error("stream_options", "stream_options is only allowed when stream is true")
        if self.best_of is not None and self.best_of < self.n:
            raise _field_error("best_of", f"best_of must be at least n, got {self.best_of} and {self.n}")
        if self.stream and (self.best_of is not None and self.best_of > self.n):
            raise _field_error("best_of", "best_of cannot be streamed: the best is known at the end")
        if self.reward_model is not None and self.stream:
            raise _field_error("reward_model", "responses that a reward model compares cannot be streamed")
        return self

    @property
    def count(self) -> int:
        """Responses to write for each prompt."""
        return self.n if self.best_of is None else self.best_of

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    prompt: Any
    max_tokens: Count | None = Field(None, ge=0)
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=20)

    @field_validator("prompt")
    @classmethod
    def _prompt(cls, value: Any) -> list[str] | list[list[int]]:
        """Always a list of prompts."""
        prompts = value if isinstance(value, list) and not _is_token_list(value) else [value]
        if len(prompts) > MOST_CHOICES:
            raise ValueError(f"at most {MOST_CHOICES} responses in one request")
        texts = all(isinstance(prompt, str) for prompt in prompts)
        if not prompts or not (texts or all(_is_token_list(prompt) for prompt in prompts)):
            raise ValueError("expected a text, a list of texts, a list of token ids, or a list of such lists, none empty")
        return prompts

    @model_validator(mode="after")
    def _not_too_many(self) -> CompletionBody:
        if len(self.prompt) * self.count > MOST_CHOICES:
            raise _field_error("prompt", f"at most {MOST_CHOICES} responses in one request")
        if self.echo and self.reward_model is not None:
            raise _field_error("echo", "echo and reward_model do not go together")
        if self.max_tokens == 0 and self.reward_model is not None:
            raise _field_error("max_tokens", "without new tokens there is nothing for the reward model to compare")
        return self


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: Messages = Field(min_length=1)
    max_tokens: Count | None = Field(None, ge=1)
    max_completion_tokens: Count | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @model_validator(mode="after")
    def _log_probs(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise _field_error("top_logprobs", "top_logprobs is only allowed when logprobs is true")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise _field_error("max_tokens", "max_tokens and max_completion_tokens differ: give one of them")
        return self


class ScoreBody(_Body):
    """POST /v1/score: a conversation, or a plain text as prompt, and one or several responses to it."""

    model: str
    messages: Messages | None = Field(None, min_length=1)
    prompt: str | None = None
    response: str | list[str]
    finished: bool = True
    user: str | None = None

    @model_validator(mode="after")
    def _one_prompt(self) -> ScoreBody:
        if (self.messages is None) == (self.prompt is None):
            raise _field_error("messages", "expected either messages or prompt")
        if isinstance(self.response, list) and not 1 <= len(self.response) <= MOST_CHOICES:
            raise _field_error("response", f"expected 1 to {MOST_CHOICES} responses")
        return self


class TokenizeBody(_Body):
    """POST /tokenize: a text, or a conversation in the model's template."""

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = Field(None, min_length=1)
    add_special_tokens: bool = True
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _one_prompt(self) -> TokenizeBody:
        if (self.messages is None) == (self.prompt is None):
            raise _field_error("prompt", "expected either prompt or messages")
        return self


class DetokenizeBody(_Body):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[int]


BodyType = TypeVar("BodyType", bound=_Body)


async def read_body(request: Request, kind: type[BodyType]) -> BodyType:
    """The request's body. Raises ApiError, ClientDisconnect."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":  # a page of another site may send other types without asking first
        raise ApiError(415, f"expected the content type application/json, got {media or 'none'}", code="unsupported_media_type")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            sent = await _received(request)
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {BODY_SECONDS} s", code="request_timeout") from None
    try:
        body = read_json(sent)
    except ValueError as error:
        raise invalid(f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise invalid(f"expected a JSON object, got {type(body).__name__}", code="invalid_json")
    return checked(body, kind)


async def _received(request: Request) -> bytes:
    sent = bytearray()
    async for part in request.stream():
        sent += part
        if len(sent) > MOST_BODY_BYTES:
            raise ApiError(413, f"the body is larger than {MOST_BODY_BYTES:,} bytes", code="request_too_large")
    return bytes(sent)


def checked(body: dict[str, Any], kind: type[BodyType]) -> BodyType:
    """The fields of a body; null means absent. Raises ApiError for the first that is wrong."""
    given = {name: value for name, value in body.items() if value is not None}
    if given.get("response_format") == {"type": "text"}:
        del given["response_format"]
    for name in given:
        if name in UNSUPPORTED:
            raise invalid(f"{name} is not supported: {UNSUPPORTED[name]}", name, "unsupported_parameter")
        if name not in kind.model_fields:
            raise invalid(f"Unrecognized request argument: {name}", name, "unknown_parameter")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise _first_error(error) from None


def _field_error(name: str, message: str) -> ApiError:
    return invalid(message, name)


def _first_error(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False)[0]
    where = [str(part) for part in first["loc"]]
    name = where[0] if where else None
    if name in ("stop", "response") and len(where) > 1:
        return invalid(f"{name}: expected a text or a list of texts", name, "invalid_type")
    if first["type"] == "missing":
        return invalid(f"you must provide {name}", name, "missing_required_parameter")
    code = "invalid_type" if first["type"].endswith("_type") else "invalid_value"
    message = first["msg"].removeprefix("Value error, ")
    return invalid(f"{'.'.join(where)}: {message}", ".".join(where), code)


def _is_token_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(part) is int for part in value)
