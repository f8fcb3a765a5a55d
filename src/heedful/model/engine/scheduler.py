"""Generation by continuous batching: requests join and leave at any step, each with its own sampling and its own seed.

There are three parts. The scheduler in this module decides which requests wait, get a slot and leave. The runner
(:mod:`heedful.model.engine.runner`) computes the next token's logits for each request that holds a slot. Sampling
(:mod:`heedful.model.engine.sampling`) draws the token. A request's random numbers depend only on its own seed and position, so
its text does not depend on the other requests in the batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.errors import UserError
from heedful.model.context_window import context_window
from heedful.model.engine.paged_runner import PagedRunner, paged_runner
from heedful.model.engine.runner import Drawn, Request, Runner
from heedful.model.engine.sampling import Sampling

# Small parts cost no more in total than large ones (docs/log.md), and unfinished responses wait less for each.
_TOKENS_OF_A_PART = 128


@dataclass(frozen=True, slots=True)
class Generation:
    """What was generated for one request.

    tokens: token ids, including the stop token if one was reached. logprobs: of these tokens, in nats, under the model's own
    distribution (softmax of its logits), whatever temperature, top-k, top-p and bias they were drawn with. finished: True if a
    stop token or a stop string was reached. stop: the stop string that was reached; the response's text ends before it.
    """

    tokens: list[int]
    logprobs: list[float]
    finished: bool
    stop: str | None = None


class Step(NamedTuple):
    """One request's new token.

    generation: everything generated for the request if this token was its last, else None. likeliest: the likeliest tokens at
    this place and their log-probs, if the request asked for them.
    """

    number: int
    token: int
    logprob: float
    generation: Generation | None
    likeliest: Sequence[tuple[int, float]] = ()


class Engine:
    """Generates for requests that come and go. It holds copies of the model's weights: make a new one after an update.

    slots: how many requests are decoded at the same time. tokenizer: needed by requests with stop strings.
    admit_at: waiting requests are admitted when this share of the slots is free, because prompts are cheaper to compute
    together. 0 admits each request as soon as it fits, as serving needs. An idle engine always admits.
    admit_tokens: a step computes at most this many prompt tokens, so that unfinished responses wait less for new prompts; None:
    no limit. A longer prompt is computed in several steps if the model runs as one compiled pass, else in one.
    Raises ValueError if slots or admit_at is out of range.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        slots: int = 512,
        tokenizer: PreTrainedTokenizerBase | None = None,
        admit_at: float = 0.25,
        admit_tokens: int | None = None,
    ) -> None:
        if slots < 1:
            raise ValueError(f"slots must be at least 1, got {slots}")
        if not 0 <= admit_at <= 1:
            raise ValueError(f"admit_at must be a share from 0 to 1, got {admit_at}")
        self._model, self._tokenizer, self._num_slots, self._admit_at = model, tokenizer, slots, admit_at
        self._admit_tokens = admit_tokens
        self._runner = paged_runner(model) or Runner(model)
        self._waiting: deque[tuple[tuple[int, ...], list[Request]]] = deque()
        self._next_number = 0
        # The first waiting prompt, if it is partly computed.
        self._begun: tuple[int, ...] | None = None

    @property
    def num_unfinished(self) -> int:
        """Requests that wait or hold a slot."""
        return sum(len(requests) for _, requests in self._waiting) + self._runner.num_requests

    def submit(self, prompt: Sequence[int], sampling: Sampling, seeds: Sequence[int]) -> list[int]:
        """Request one response per seed to a prompt, which is computed once; returns the requests' numbers.

        If there are more seeds than slots, they are served in several turns, and the prompt is computed once per turn. Raises
        ValueError (empty prompt, no tokenizer for stop strings), UserError if prompt and max_tokens together exceed the context
        window.
        """
        if sampling.stop and self._tokenizer is None:
            raise ValueError("stop strings need the tokenizer: give it to the engine")
        check_fits(self._model, prompt, sampling)
        numbers = list(range(self._next_number, self._next_number + len(seeds)))
        self._next_number += len(seeds)
        requests = [Request(number, sampling, seed) for number, seed in zip(numbers, seeds, strict=True)]
        for first in range(0, len(requests), self._num_slots):
            self._waiting.append((tuple(prompt), requests[first : first + self._num_slots]))
        return numbers

    def cancel(self, *numbers: int) -> None:
        """End requests without a result and free their slots at once; numbers of finished or unknown requests are ignored."""
        gone = set(numbers)
        for _, requests in self._waiting:
            requests[:] = [request for request in requests if request.number not in gone]
        self._waiting = deque(entry for entry in self._waiting if entry[1])
        self._runner.remove(gone)
        if self._begun is not None and (not self._waiting or self._waiting[0][0] != self._begun):
            self._forget_begun()

    def step(self) -> list[Step]:
        """Decode one token for each request that holds a slot, then admit waiting requests and draw their first tokens."""
        steps: list[Step] = []
        if self._runner.num_requests:
            steps = self._record(self._runner.decode())
            self._runner.advance(_finished(steps))
        return steps + self._admit()

    def _admit(self) -> list[Step]:
        live = self._runner.num_requests
        free = self._num_slots - live
        if live and free < self._admit_at * self._num_slots:
            return []
        admitted: dict[tuple[int, ...], list[Request]] = {}
        size = 0
        if self._waiting and len(self._waiting[0][1]) <= free:
            left = self._compute_ahead(self._waiting[0][0])
            if left is None:
                return []
            size = left - len(self._waiting[0][0])  # tokens computed earlier do not count
        while self._waiting and len(self._waiting[0][1]) <= free:
            size += 0 if self._waiting[0][0] in admitted else len(self._waiting[0][0])
            if admitted and self._admit_tokens is not None and size > self._admit_tokens:
                break
            prompt, requests = self._waiting.popleft()
            admitted.setdefault(prompt, []).extend(requests)
            free -= len(requests)
        if not admitted:
            return []
        self._begun = None
        steps = self._record(self._runner.prefill(list(admitted), list(admitted.values())))
        self._runner.remove(_finished(steps))
        return steps

    def _compute_ahead(self, prompt: tuple[int, ...]) -> int | None:
        """Compute a part of a prompt that is longer than a step may compute.

        Returns how many of its tokens are left to compute; None if this step may compute no more.
        """
        if self._admit_tokens is None or not isinstance(self._runner, PagedRunner) or len(prompt) <= self._admit_tokens:
            return len(prompt)
        left = self._runner.begin(prompt, 0)
        if left > self._admit_tokens:
            self._begun = prompt
            self._runner.begin(prompt, min(self._admit_tokens, _TOKENS_OF_A_PART))
            return None
        return left

    def _forget_begun(self) -> None:
        if isinstance(self._runner, PagedRunner):
            self._runner.forget_begun()
        self._begun = None

    def _record(self, drawn: Iterable[Drawn]) -> list[Step]:
        """Add new tokens to their requests and determine which requests they end."""
        steps: list[Step] = []
        for request, token, logprob in drawn:
            request.tokens.append(token)
            request.logprobs.append(logprob)
            sampling = request.sampling
            stop = self._stop_string(request) if sampling.stop else None
            generation = None
            if token in sampling.stop_tokens or stop is not None:
                generation = Generation(request.tokens, request.logprobs, True, stop)
            elif len(request.tokens) == sampling.max_tokens:
                generation = Generation(request.tokens, request.logprobs, False)
            likeliest = request.likeliest[-1] if sampling.top_logprobs else ()
            steps.append(Step(request.number, token, logprob, generation, likeliest))
        return steps

    def _stop_string(self, request: Request) -> str | None:
        """The stop string that the last token completed."""
        assert self._tokenizer is not None
        # A character is at most four tokens of a byte-level vocabulary. Four more keep a character cut at the start outside.
        tail = 4 * max(map(len, request.sampling.stop)) + 4
        text = str(self._tokenizer.decode(request.tokens[-tail:], skip_special_tokens=True))
        return next((stop for stop in request.sampling.stop if stop in text), None)


def _finished(steps: Sequence[Step]) -> set[int]:
    return {step.number for step in steps if step.generation is not None}


def check_fits(model: PreTrainedModel, prompt: Sequence[int], sampling: Sampling) -> None:
    """Raise ValueError for an empty prompt, UserError if it and max_tokens together exceed the model's context window."""
    if len(prompt) == 0:
        raise ValueError("a prompt is empty")
    window = context_window(model)
    if window is not None and len(prompt) + sampling.max_tokens > window:
        raise UserError(
            "prompt and response do not fit the model's context window",
            expected=f"at most {window} tokens together",
            got=f"a prompt of {len(prompt)} and up to {sampling.max_tokens} new tokens",
            next_step="lower the limits max_prompt_tokens or max_response_tokens",
        )


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    seeds: Sequence[int],
    *,
    batch_size: int = 512,
    advance: Callable[[int], None] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> list[Generation]:
    """Sample one response to each prompt, in order; a prompt that occurs several times is computed once.

    prompts: token ids, none empty. seeds: one per prompt. batch_size: how many requests are decoded at the same time. advance:
    called with the number of requests that just finished. tokenizer: needed for stop strings.
    Raises ValueError (an empty prompt, another number of seeds), UserError if prompt and max_tokens together exceed the model's
    context window.
    """
    return generate_with(Engine(model, slots=batch_size, tokenizer=tokenizer), prompts, sampling, seeds, advance=advance)


def generate_with(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    seeds: Sequence[int],
    *,
    advance: Callable[[int], None] | None = None,
) -> list[Generation]:
    """Like :func:`generate`, with an existing idle engine and the weights that it was made with."""
    if len(prompts) != len(seeds):
        raise ValueError(f"expected a seed for each of {len(prompts)} prompts, got {len(seeds)}")
    samples: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        samples.setdefault(tuple(prompt), []).append(i)
    place: dict[int, int] = {}
    # Prompts of similar length are decoded together, so that short ones do not drag a long cache along.
    for prompt in sorted(samples, key=len, reverse=True):
        members = samples[prompt]
        numbers = engine.submit(prompt, sampling, [seeds[i] for i in members])
        place.update(zip(numbers, members, strict=True))
    results: list[Generation | None] = [None] * len(prompts)
    while engine.num_unfinished:
        finished = [step for step in engine.step() if step.generation is not None]
        for step in finished:
            results[place[step.number]] = step.generation
        if advance is not None and finished:
            advance(len(finished))
    return [result for result in results if result is not None]
