"""What each token adds to a text, in bytes. A stream of tokens becomes text piece by piece, and the pieces add up to the whole.

A token may hold only a part of a character, so a text is decoded from its tokens' bytes. Byte-level vocabularies (GPT-2, Llama
3, Qwen) and SentencePiece's (Llama 2, Gemma) say what the bytes are; for other tokenizers a token's text is what it adds after
another token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any, Literal, cast

from transformers import PreTrainedTokenizerBase

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "▁"


class TokenText:
    """The bytes and the name of each token of a tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._kind = _kind(tokenizer)
        self._special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._found: dict[int, bytes] = {}
        self._anchor: int | None = None

    def bytes_of(self, token: int) -> bytes:
        """What the token adds to a text; nothing if it is a special token."""
        if token not in self._found:
            self._found[token] = b"" if token in self._special else self._bytes_of(token)
        return self._found[token]

    def name(self, token: int) -> str:
        """The token's text, in log-probs. A part of a character is written ``bytes:\\xf0\\x9f``, as OpenAI does."""
        if token in self._special:
            return str(self._tokenizer.convert_ids_to_tokens(token))
        piece = self.bytes_of(token)
        try:
            return piece.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)

    def text(self, tokens: Sequence[int]) -> str:
        """The text of all tokens, without special tokens."""
        return b"".join(map(self.bytes_of, tokens)).decode(errors="replace")

    def _bytes_of(self, token: int) -> bytes:
        piece = cast(str | None, self._tokenizer.convert_ids_to_tokens(token))
        if piece is None:  # the model's embedding may have more rows than the tokenizer has tokens
            return b""
        if self._kind == "bytes":
            known = [_BYTE_OF.get(character) for character in piece]
            return piece.encode() if None in known else bytes(cast(list[int], known))
        if self._kind == "sentencepiece":
            byte = _BYTE.fullmatch(piece)
            return bytes([int(byte[1], 16)]) if byte else piece.replace(_SPACE, " ").encode()
        return self._text_after_another(token).encode()

    def _text_after_another(self, token: int) -> str:
        if self._anchor is None:
            ordinary = (number for number in range(len(self._tokenizer)) if number not in self._special)
            self._anchor = next(number for number in ordinary if str(self._tokenizer.decode([number])).strip())
        before = str(self._tokenizer.decode([self._anchor]))
        return str(self._tokenizer.decode([self._anchor, token])).removeprefix(before)


def _kind(tokenizer: PreTrainedTokenizerBase) -> Literal["bytes", "sentencepiece", "other"]:
    """How the vocabulary spells text, read from the tokenizer's decoder."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return "other"
    decoder: dict[str, Any] = json.loads(backend.to_str())["decoder"] or {}
    parts = decoder.get("decoders", [decoder])
    kinds = {part.get("type") for part in parts}
    if "ByteLevel" in kinds:
        return "bytes"
    replaced = [part.get("pattern", {}).get("String") for part in parts if part.get("type") == "Replace"]
    return "sentencepiece" if kinds & {"Metaspace", "ByteFallback"} or _SPACE in replaced else "other"


def _byte_of_character() -> dict[str, int]:
    """The character that byte-level vocabularies write for each byte (GPT-2's ``bytes_to_unicode``), inverted."""
    printable = list(chain(range(ord("!"), ord("~") + 1), range(ord("¡"), ord("¬") + 1), range(ord("®"), ord("ÿ") + 1)))
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_of_character()
