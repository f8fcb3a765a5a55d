"""What all requests share: the models, the engines' thread, the keys, and whether the server is about to end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request

from heedful.errors import ConfigError, UserError
from heedful.serve.access_keys import AccessKey, refused
from heedful.serve.api_errors import ApiError, invalid
from heedful.serve.engine_thread import EngineThread, Job
from heedful.serve.served_models import ServedModel
from heedful.serve.server_metrics import ServerMetrics

_Result = TypeVar("_Result")
_CHARACTERS_AT_ONCE = 100_000  # tokenizing more at once would let other requests wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much the server takes on.

    slots: responses that each model writes at the same time. waiting: responses that may wait for a slot. seconds: how long a
    request may take. drain_seconds: how long requests may still run after SIGTERM.
    """

    slots: int = 64
    waiting: int = 512
    seconds: float = 600.0
    drain_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name, least in (("slots", 1), ("waiting", 1), ("seconds", 0), ("drain_seconds", 0)):
            if not least <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is out of range", expected=f"{least} or more", got=str(getattr(self, name)))


class ServingState:
    """One running server."""

    def __init__(self, models: Mapping[str, ServedModel], limits: Limits, keys: Sequence[AccessKey] = ()) -> None:
        self.models, self.limits, self.keys = dict(models), limits, tuple(keys)
        self.metrics = ServerMetrics()
        self.thread = EngineThread(models, slots=limits.slots, most_waiting=limits.waiting, seconds=limits.seconds)
        self.draining = False
        self.num_requests = 0
        """Requests that are being answered."""
        # Tokenizers have settings that a call changes, so one thread uses them.
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="heedful-tokenizer")
        for served in models.values():
            _ = served.token_text, served.ends, served.response_end, served.frame

    async def tokenize(self, work: Callable[[], _Result]) -> _Result:
        """Let the tokenizers' thread do something; what Heedful refuses becomes an error of the client."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._tokenizing, work)
        except UserError as error:
            parts = [
                error.message,
                *(f"{word} {text}" for word, text in (("expected", error.expected), ("got", error.got)) if text),
            ]
            raise invalid("; ".join(parts), "messages") from error

    async def tokenize_each(self, texts: Sequence[str], work: Callable[[Sequence[str]], list[_Result]]) -> list[_Result]:
        """``work`` on some texts after the others, so that it can be other requests' turn in between."""
        found: list[_Result] = []
        first = 0
        while first < len(texts):
            last, characters = first + 1, len(texts[first])
            while last < len(texts) and characters + len(texts[last]) <= _CHARACTERS_AT_ONCE:
                characters += len(texts[last])
                last += 1
            some = texts[first:last]
            found += await self.tokenize(lambda some=some: work(some))
            first = last
        return found

    def model_for(self, request: Request, name: str, *, scores: bool | None = False, param: str = "model") -> ServedModel:
        """The model that a request names. scores: whether it must be a reward model (None: any). Raises ApiError."""
        served = self.models.get(name)
        key: AccessKey | None = request.scope["state"].get("key")
        if served is None:
            raise ApiError(404, f"The model `{name}` does not exist", param=param, code="model_not_found")
        if key is not None and not key.opens(name):
            raise refused(name)
        if scores is not None and served.scores != scores:
            kinds = ("a policy, which writes", "a reward model, which scores")
            raise invalid(f"the model {name} is {kinds[served.scores]}: expected {kinds[scores]}", param, "wrong_kind_of_model")
        return served

    def add(self, served: ServedModel) -> None:
        """Offer one more model from now on. Any thread may call it."""
        _ = served.token_text, served.ends, served.response_end, served.frame
        self.thread.add(served.name, served)
        self.models = {**self.models, served.name: served}  # a reader of the old one still reads a whole one

    def models_of(self, request: Request) -> list[ServedModel]:
        """The models that the request's key opens."""
        key: AccessKey | None = request.scope["state"].get("key")
        return [served for name, served in self.models.items() if key is None or key.opens(name)]

    def end(self, job: Job) -> None:
        """A job was answered, or its client is gone: free its slots, and count what it used."""
        self.thread.cancel(job)
        self.metrics.prompt_tokens.labels(job.model).inc(sum(len(tokens) for tokens, _, _ in job.prompts))
        self.metrics.generated_tokens.labels(job.model).inc(sum(choice.num_tokens for choice in job.choices))
        if job.first_piece is not None:
            self.metrics.first_token.labels(job.model).observe(job.first_piece - job.started)
        if all(choice.ending for choice in job.choices):
            self.metrics.lasted.labels(job.model).observe(time.monotonic() - job.started)

    def close(self) -> None:
        """End the tokenizers' thread."""
        self._tokenizing.shutdown(wait=False, cancel_futures=True)
