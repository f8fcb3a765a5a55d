"""Owners of prompts: the split that each keeps forever, and the tombstones of those who asked to be forgotten.

``data/owners.json`` holds a secret key and the shares of the splits, both written once. An owner's split is a keyed hash of the
owner's id. It depends on no other owner, so it stays when others come or go (SPEC 1.3). Ids that differ only in case share it.
``data/forgotten.jsonl`` holds one tombstone per forgotten owner: keyed hashes of the owner's id and of the prompts' ids, the
time, and how many records were erased.
"""

from __future__ import annotations

import json
import secrets
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from heedful.errors import DataError
from heedful.project.files import read_jsonl, write_atomically, write_jsonl
from heedful.records import Split

OWNERS = "owners.json"
FORGOTTEN = "forgotten.jsonl"
SHARES = (0.8, 0.1, 0.1)
"""Shares of train, valid and test in a new data folder (ours: the paper does not say)."""


def composed(owner: str) -> str:
    """The id in Unicode's composed form: one file may spell "é" as one character, another as two. It is one owner."""
    return unicodedata.normalize("NFC", owner)


def spellings(owner: str) -> list[str]:
    """The forms in which records of older versions may hold the id."""
    return list(dict.fromkeys([composed(owner), owner, unicodedata.normalize("NFD", owner)]))


def split_name(owner: str) -> str:
    """What decides an owner's split: the id without regard to case, character width and spaces around it.

    "Anna" and "anna" may be one person, whose prompts must not be in both training and test data (SPEC 1.3). They may also be
    two people. So they share only the split: each has its own cap, and forgetting one leaves the other.
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", owner).casefold()).strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerKey:
    """The secret key of a data folder, and the shares of its splits."""

    key: bytes
    shares: tuple[float, float, float]

    def split(self, group: str) -> Split:
        """The split of an owner, or of a conversation without an owner; the same name always gets the same split."""
        draw = int.from_bytes(blake2b(_encoded(group), digest_size=8, key=self.key, person=b"split").digest(), "big") / 2**64
        return "train" if draw < self.shares[0] else "valid" if draw < self.shares[0] + self.shares[1] else "test"

    def hashed(self, owner: str) -> str:
        """The id of an owner or a prompt as tombstones hold it."""
        return blake2b(_encoded(owner), digest_size=16, key=self.key, person=b"forgotten").hexdigest()


def owner_key(data: Path) -> OwnerKey:
    """The key of a data folder; the first call makes and writes it. Raises DataError for a broken file, StorageError."""
    key = existing_owner_key(data)
    if key is None:
        key = OwnerKey(key=secrets.token_bytes(32), shares=SHARES)
        write_atomically(data / OWNERS, json.dumps({"key": key.key.hex(), "shares": list(key.shares)}) + "\n")
    return key


def existing_owner_key(data: Path) -> OwnerKey | None:
    """The key of a data folder, or None if there is none yet. Raises DataError for a broken file."""
    path = data / OWNERS
    if not path.exists():
        return None
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        train, valid, test = (float(share) for share in row["shares"])
        key = OwnerKey(key=bytes.fromhex(row["key"]), shares=(train, valid, test))
        if len(key.key) != 32 or abs(sum(key.shares) - 1) > 1e-6:
            raise ValueError("a key of another length, or shares whose sum is not 1")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{OWNERS} cannot be read",
            expected='{"key": 64 hexadecimal digits, "shares": [train, valid, test]}',
            got=str(error),
            where=path,
            next_step="put the file back from a backup: with another key owners would get other splits",
        ) from None
    return key


def read_tombstones(data: Path) -> dict[str, Mapping[str, Any]]:
    """Tombstones by hashed owner. Raises DataError for a broken file."""
    path = data / FORGOTTEN
    return {row["owner"]: row for _, row in read_jsonl(path)} if path.exists() else {}


def write_tombstones(data: Path, tombstones: Mapping[str, Mapping[str, Any]]) -> None:
    """Put all tombstones on disk, atomically. Raises StorageError."""
    write_jsonl(data / FORGOTTEN, tombstones.values())


class Forgotten:
    """Who and what was forgotten in a data folder. Raises DataError if the key of the tombstones is gone."""

    def __init__(self, data: Path) -> None:
        tombstones = read_tombstones(data)
        self._owners = set(tombstones)
        self._prompts = {hashed for row in tombstones.values() for hashed in row["prompts"]}
        self._key = existing_owner_key(data) if tombstones else None
        if tombstones and self._key is None:
            raise DataError(
                f"{FORGOTTEN} is there without {OWNERS}: forgotten owners could not be recognized",
                expected=f"{OWNERS} with the key that the tombstones were made with",
                got="no such file",
                where=data / OWNERS,
                next_step="put the file back from a backup",
            )

    def owner(self, owner: str | None) -> bool:
        """Whether this owner was forgotten."""
        key = self._key
        return owner is not None and key is not None and any(key.hashed(form) in self._owners for form in spellings(owner))

    def prompt(self, prompt_id: str) -> bool:
        """Whether a prompt with this id was a forgotten owner's (another owner may have written the same text)."""
        return self._key is not None and self._key.hashed(prompt_id) in self._prompts


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
