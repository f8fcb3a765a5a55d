"""The thread that computes: it owns the engines, takes requests from the web server, and hands back text as it grows.

Only this thread touches the models. The web server's event loop puts commands into a queue (submit, cancel, compute), which the
thread works off before each step; after each step it hands all new pieces to the loop in one call. A reader that is slow
leaves its pieces in its own job, so it holds up neither the engine nor other readers.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from heedful.model.engine.sampling import Sampling
from heedful.model.engine.scheduler import Engine, Step
from heedful.serve.api_errors import ApiError, busy, failed, stopping, too_late
from heedful.serve.choice import Choice, Piece
from heedful.serve.served_models import ServedModel

MOST_RETRY_SECONDS = 120
_PROMPT_TOKENS_PER_STEP = 512  # more at once would let streams wait for new prompts
_Result = TypeVar("_Result")
log = logging.getLogger("heedful.serve")


@dataclass(slots=True, eq=False)
class Job:
    """One HTTP request's responses.

    prompts: for each prompt its tokens, how its responses are sampled, and a seed for each; ``choices`` has this order.
    """

    model: str
    prompts: Sequence[tuple[Sequence[int], Sampling, Sequence[int]]]
    choices: list[Choice]
    started: float = field(default_factory=time.monotonic)
    first_piece: float | None = None
    """When the first token came; None until then."""
    waiting: int = 0
    """Responses without a token yet."""
    numbers: dict[int, int] = field(default_factory=dict)
    """The engine's number of each unfinished response -> its place. For the engine's thread only."""
    cancelled: bool = False
    error: ApiError | None = None
    _arrived: list[tuple[int, Piece]] = field(default_factory=list)
    _ready: asyncio.Event = field(default_factory=asyncio.Event)

    async def pieces(self) -> list[tuple[int, Piece]]:
        """What has arrived since the last call, at least one piece, each with its response's place. Raises ApiError."""
        while not self._arrived:
            if self.error is not None:
                raise self.error
            self._ready.clear()
            await self._ready.wait()
        taken, self._arrived = self._arrived, []
        return taken

    def put(self, pieces: list[tuple[int, Piece]]) -> None:
        """Hand pieces to the reader. Called in the event loop."""
        self._arrived += pieces
        self._ready.set()

    def fail(self, error: ApiError) -> None:
        """Tell the reader that nothing more comes. Called in the event loop."""
        self.error = error
        self._ready.set()


@dataclass(slots=True)
class _Running:
    """A policy, its engine, and the jobs by the engine's numbers."""

    served: ServedModel
    engine: Engine
    jobs: dict[int, Job] = field(default_factory=dict)


class EngineThread:
    """Generates with any number of models, one step of each in turn.

    slots: responses that a model decodes at the same time. most_waiting: responses that may wait for a slot; further requests
    are refused. seconds: how long a request may take.
    """

    def __init__(self, models: Mapping[str, ServedModel], *, slots: int, most_waiting: int, seconds: float) -> None:
        self._slots, self._most_waiting, self.seconds = slots, most_waiting, seconds
        self._running = {name: self._new(served) for name, served in models.items() if not served.scores}
        self._commands: SimpleQueue[Callable[[], bool | None]] = SimpleQueue()  # True: a step is due after it
        self._thread = threading.Thread(target=self._run, name="heedful-engine", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = False
        self._jobs: set[Job] = set()  # in the event loop: those without an end yet
        self._seconds_per_response = 1.0  # between the ends of two responses, a moving average
        self._last_end = 0.0
        self._closed = False
        self._num_computing = 0
        self.num_steps = 0

    # ------------------------------------------------------------------------------------------ in the event loop

    def start(self) -> None:
        """Start the thread; call it in the event loop that will read."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def close(self) -> None:
        """End the thread; unfinished jobs get an error."""
        self._closed = True
        self._commands.put(self._close)
        await asyncio.to_thread(self._thread.join)

    @property
    def num_jobs(self) -> int:
        """Requests that are not answered yet."""
        return len(self._jobs)

    @property
    def num_waiting(self) -> int:
        """Responses of all jobs that have no token yet."""
        return sum(job.waiting for job in self._jobs)

    def num_unfinished(self, model: str) -> int:
        """Responses of a model that wait or hold a slot in its engine."""
        return len(self._running[model].jobs)

    def add(self, name: str, served: ServedModel) -> None:
        """Offer one more model; jobs for it may be submitted from now on. Any thread may call this."""
        running = None if served.scores else self._new(served)

        def put() -> None:
            if running is not None:
                self._running[name] = running

        self._commands.put(put)

    def submit(self, job: Job) -> None:
        """Begin a job. Raises ApiError if too many responses wait already, or the server is about to end."""
        if self._closed:
            raise stopping()
        waiting = self.num_waiting
        if waiting and waiting + len(job.choices) > self._most_waiting:
            raise busy(waiting, self._retry_seconds(waiting))
        job.waiting = len(job.choices)
        self._jobs.add(job)
        self._commands.put(lambda: self._submit(job))

    def cancel(self, job: Job) -> None:
        """End a job whose reader is gone, or has all that it wants."""
        if job in self._jobs:
            self._jobs.discard(job)
            self._commands.put(lambda: self._cancel(job))

    async def compute(self, work: Callable[[], _Result]) -> _Result:
        """Let the thread compute something else between two steps. Raises what that raises; ApiError if too much waits."""
        assert self._loop is not None
        if self._closed:
            raise stopping()
        if self._num_computing >= self._most_waiting:
            raise busy(self._num_computing, self._retry_seconds(self._num_computing))
        loop, future = self._loop, self._loop.create_future()

        def settle(set_it: Callable[[Any], None], value: Any) -> None:
            if not future.cancelled():
                set_it(value)

        def run() -> bool:
            if future.cancelled():
                return False
            if self._closing:
                loop.call_soon_threadsafe(settle, future.set_exception, stopping())
                return False
            try:
                value = work()
            except Exception as error:
                loop.call_soon_threadsafe(settle, future.set_exception, error)
            else:
                loop.call_soon_threadsafe(settle, future.set_result, value)
            return True

        self._commands.put(run)
        self._num_computing += 1
        try:
            return await future
        finally:
            self._num_computing -= 1

    def _retry_seconds(self, waiting: int) -> int:
        return max(1, min(MOST_RETRY_SECONDS, round(waiting * self._seconds_per_response)))

    def _deliver(self, arrived: list[tuple[Job, list[tuple[int, Piece]], int]]) -> None:
        now = time.monotonic()
        for job, pieces, begun in arrived:
            if job.first_piece is None:
                job.first_piece = now
            job.waiting -= begun
            if pieces:
                job.put(pieces)
            if job in self._jobs and all(choice.ending for choice in job.choices):
                self._jobs.discard(job)
                lasted = (now - max(self._last_end, job.started)) / len(job.choices)
                self._seconds_per_response += 0.2 * (lasted - self._seconds_per_response)
                self._last_end = now

    def _fail(self, job: Job, error: ApiError) -> None:
        self._jobs.discard(job)
        job.fail(error)

    # ------------------------------------------------------------------------------------------ in the thread

    def _new(self, served: ServedModel) -> _Running:
        return _Running(served, Engine(served.model, slots=self._slots, admit_at=0, admit_tokens=_PROMPT_TOKENS_PER_STEP))

    def _run(self) -> None:
        try:
            while not self._closing:
                self._take_commands(wait=not any(running.jobs for running in self._running.values()))
                for name in self._running:
                    if self._running[name].jobs and not self._closing:
                        try:
                            self._step(name)
                        except Exception as error:  # this thread must live: without it every request would wait for ever
                            self._give_up(name, error)
        finally:
            for running in self._running.values():
                for job in set(running.jobs.values()):
                    self._tell(self._fail, job, stopping())
            self._take_commands(wait=False)  # those of who asked meanwhile

    def _take_commands(self, *, wait: bool) -> None:
        try:
            while not self._commands.get(block=wait)():
                wait = False
        except Empty:
            pass

    def _close(self) -> None:
        self._closing = True

    def _submit(self, job: Job) -> None:
        if job.cancelled:
            return
        if self._closing:
            self._tell(self._fail, job, stopping())
            return
        running = self._running[job.model]
        try:
            for tokens, sampling, seeds in job.prompts:
                for number in running.engine.submit(tokens, sampling, seeds):
                    job.numbers[number] = len(job.numbers)
                    running.jobs[number] = job
        except Exception as error:  # what is asked was checked before
            log.error("a request could not be submitted", exc_info=error)
            self._cancel(job)
            self._tell(self._fail, job, failed())

    def _cancel(self, job: Job) -> None:
        job.cancelled = True
        running = self._running[job.model]
        if job.numbers:
            running.engine.cancel(*job.numbers)
            for number in job.numbers:
                del running.jobs[number]
            job.numbers.clear()

    def _step(self, name: str) -> None:
        running = self._running[name]
        self._end_late_jobs(running)
        steps = running.engine.step()
        self.num_steps += 1
        arrived: dict[Job, tuple[list[tuple[int, Piece]], int]] = {}
        stopped: list[int] = []
        for step in steps:
            job = running.jobs.get(step.number)
            if job is None:
                continue
            place = job.numbers[step.number]
            choice = job.choices[place]
            first = choice.num_tokens == 0
            piece = _add(choice, step)
            pieces, begun = arrived.get(job, ([], 0))
            if piece is not None:
                pieces.append((place, piece))
            arrived[job] = pieces, begun + first
            if choice.ending is not None:
                del running.jobs[step.number], job.numbers[step.number]
                if step.generation is None:
                    stopped.append(step.number)
        if stopped:
            running.engine.cancel(*stopped)
        if arrived:
            self._tell(self._deliver, [(job, pieces, begun) for job, (pieces, begun) in arrived.items()])

    def _end_late_jobs(self, running: _Running) -> None:
        now = time.monotonic()
        for job in {job for job in running.jobs.values() if now - job.started > self.seconds}:
            self._cancel(job)
            self._tell(self._fail, job, too_late(self.seconds))

    def _give_up(self, name: str, error: Exception) -> None:
        """A step failed: its jobs get an error, and the model gets a new engine. The other models go on."""
        log.error("a step of the model %s failed: its requests are given up", name, exc_info=error)
        running = self._running[name]
        self._running[name] = self._new(running.served)
        for job in set(running.jobs.values()):
            job.cancelled = True
            job.numbers.clear()
            self._tell(self._fail, job, failed())

    def _tell(self, call: Callable[..., None], *arguments: Any) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed, so there is no reader left
            self._loop.call_soon_threadsafe(call, *arguments)


def _add(choice: Choice, step: Step) -> Piece | None:
    ending = None if step.generation is None else "stop" if step.generation.finished else "length"
    return choice.add(step.token, step.logprob, step.likeliest, ending=ending)
