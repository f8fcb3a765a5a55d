"""One response while it is written: its text, piece by piece, up to a stop string, with the log-probs of its tokens.

Text is held back while it could still change: the bytes of an unfinished character, and what may be the beginning of a stop
string. So a stream never shows a part of a stop string, and its pieces join to the text that a whole answer has.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from heedful.serve.token_text import TokenText

Ending = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its log-prob, and the likeliest tokens at its place. offset: characters of the text before it.

    logprob: None for the first token of a prompt, which nothing precedes.
    """

    token: int
    logprob: float | None
    likeliest: Sequence[tuple[int, float]]
    offset: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What was added to a response. ending: why it ended, with the last piece."""

    text: str
    logprobs: list[TokenLogprob]
    ending: Ending | None


class Choice:
    """A response that grows by tokens.

    stop: strings that end it, before their first character. keep_logprobs: whether pieces carry log-probs. drop_space: leave
    out the one space with which an answer begins after a colon (:func:`heedful.conversation.said`). frame: what the chat
    template writes before and after an answer; the model writes it too, and it is left out.
    """

    def __init__(
        self,
        names: TokenText,
        stop: Sequence[str] = (),
        *,
        keep_logprobs: bool = False,
        drop_space: bool = False,
        frame: tuple[str, str] = ("", ""),
    ) -> None:
        self._names, self._stop, self._keep_logprobs, self._drop_space = names, tuple(stop), keep_logprobs, drop_space
        self._lead, self._trail = frame
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._decoded = 0  # characters
        self._given = 0
        self._waiting: deque[tuple[int, TokenLogprob]] = deque()  # with the number of characters after the token
        self.num_tokens = 0
        self.sum_logprobs = 0.0
        self.ending: Ending | None = None

    def add(
        self, token: int, logprob: float, likeliest: Sequence[tuple[int, float]] = (), *, ending: Ending | None = None
    ) -> Piece | None:
        """One more token; returns what may be shown now, or None. ending: why it is the last one; ``stop`` for an end token."""
        self.num_tokens += 1
        self.sum_logprobs += logprob
        offset = self._decoded
        text = "" if ending == "stop" else self._decoder.decode(self._names.bytes_of(token))
        if ending is not None:
            text += self._decoder.decode(b"", True)
        self._held += text
        self._decoded += len(text)
        if self._keep_logprobs:
            self._waiting.append((self._decoded, TokenLogprob(token, logprob, likeliest, offset)))
        if self._begins(ending):
            return None
        return self._piece(ending)

    def _begins(self, ending: Ending | None) -> bool:
        """Leave out the frame before the answer. True if more tokens are needed to tell where it ends."""
        if not (self._drop_space or self._lead) or not self._held:
            return False
        wanted = 2 if self._drop_space else len(self._lead)
        if ending is None and len(self._held) < wanted and (self._drop_space or self._lead.startswith(self._held)):
            return True
        left_out = len(self._lead) if self._held.startswith(self._lead) else 0
        if self._drop_space:
            left_out = self._held[0] == " " and bool(self._held[1:2].strip())
        self._held = self._held[left_out:]
        self._given += left_out
        self._drop_space, self._lead = False, ""
        return False

    def _piece(self, ending: Ending | None) -> Piece | None:
        place = _first_stop(self._held, self._stop) if self._stop else None
        if place is not None:
            shown, self._held, ending = self._held[:place], "", "stop"
        elif ending is not None:
            shown, self._held = self._held.removesuffix(self._trail), ""
        else:
            shown = self._held[: len(self._held) - self._kept_back()]
            self._held = self._held[len(shown) :]
        self.ending = ending
        self._given += len(shown)
        logprobs: list[TokenLogprob] = []
        while self._waiting and (ending is not None or self._waiting[0][0] <= self._given):
            logprobs.append(self._waiting.popleft()[1])
        return Piece(shown, logprobs, ending) if shown or logprobs or ending is not None else None

    def _kept_back(self) -> int:
        """How many of the last characters may not be shown yet."""
        if not self._stop and not self._trail:
            return 0
        longest = min(max(max(map(len, self._stop), default=1) - 1, len(self._trail)), len(self._held))
        ends = [stop[:-1] for stop in self._stop] + [self._trail]
        return next((n for n in range(longest, 0, -1) if any(end.startswith(self._held[-n:]) for end in ends)), 0)


def _first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the first complete stop string begins; the longest one if several end at the same character."""
    found = [(place + len(string), place) for string in stop if (place := text.find(string)) >= 0]
    return min(found)[1] if found else None


def cut(text: str, stop: Sequence[str]) -> str:
    """A whole text up to its first stop string."""
    place = _first_stop(text, stop)
    return text if place is None else text[:place]
