"""What an import must know about the stored prompts: hashes, counts and splits, but not the texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from heedful.conversation import Turn, opening, plain_text
from heedful.errors import DataError
from heedful.project.data_folder import file_name, turns_in
from heedful.project.files import read_jsonl
from heedful.project.owners import Forgotten, OwnerKey, composed, owner_key, split_name
from heedful.prompts.duplicates import prefix_key, spoken_text
from heedful.records import Split


@dataclass(slots=True)
class StoredPrompts:
    """The prompts of a data folder."""

    key: OwnerKey
    forgotten: Forgotten
    identities: set[int] = field(default_factory=set[int])
    prefixes: dict[int, str] = field(default_factory=dict[int, str])
    """Id by prefix key."""
    counts: Counter[str] = field(default_factory=Counter[str])
    """Prompts by owner."""
    splits: dict[int, Split] = field(default_factory=dict[int, Split])
    """Split by hash of the owner or, without one, of the conversation's opening. Once given, it stays."""
    number: int = 0
    owners: set[str | None] = field(default_factory=set[str | None])

    @classmethod
    def read(cls, data: Path) -> StoredPrompts:
        stored = cls(key=owner_key(data), forgotten=Forgotten(data))
        path = data / file_name("prompt")
        for line, row in read_jsonl(path) if path.exists() else ():
            turns, owner = _stored_turns(row, f"{path}:{line}"), row.get("user")
            owner = None if owner is None else composed(owner)
            stored.identities.add(identity_of(plain_text(turns), owner))
            stored.prefixes.setdefault(prefix_key(spoken_text(turns)), row["id"])
            stored.splits.setdefault(hash_of(_group(turns, owner)), row.get("split", "train"))
            stored.number += 1
            stored.owners.add(owner)
            if owner is not None:
                stored.counts[owner] += 1
        return stored

    def split(self, turns: Sequence[Turn], owner: str | None) -> Split:
        group = _group(turns, owner)
        return self.splits.get(hash_of(group)) or self.key.split(group)


def _stored_turns(row: Any, where: str) -> tuple[Turn, ...]:
    try:
        _, turns = row["id"], turns_in(row)
    except (AttributeError, KeyError, TypeError):
        raise DataError("a stored prompt cannot be read", expected="id and text or turns", got="neither", where=where) from None
    return turns


def _group(turns: Sequence[Turn], owner: str | None) -> str:
    return f"user {split_name(owner)}" if owner is not None else f"text {opening(turns)}"


def hash_of(*parts: str) -> int:
    """A 64-bit hash of texts."""
    return int.from_bytes(blake2b("\0".join(parts).encode(errors="surrogatepass"), digest_size=8).digest(), "big")


def identity_of(text: str, owner: str | None) -> int:
    """The hash that identifies a prompt and decides the order of prompts."""
    return hash_of("no owner" if owner is None else f"owner {owner}", text)
