"""Who may use which models: the owners of API keys. Without keys, only this machine."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from heedful.errors import ConfigError, MissingError
from heedful.serve.api_errors import ApiError, unauthorised

LEAST_CHARACTERS = 16
_COMMENT = re.compile(r"(?:^|\s)#.*")


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A key that was given out. Only its hash stays in memory. models: those that it opens; None: all."""

    digest: bytes
    models: frozenset[str] | None = None

    def opens(self, model: str) -> bool:
        """Whether the key may use this model."""
        return self.models is None or model in self.models


def digest_of(key: str) -> bytes:
    """The hash by which a key is known."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def read_keys(file: Path | None, variable: str | None, models: Sequence[str]) -> list[AccessKey]:
    """The keys of a file, ``KEY`` or ``KEY MODEL ...`` on each line, and the one of an environment variable.

    Raises MissingError, ConfigError (a key is too short or given twice, a model is not served, a file without a key).
    """
    variable = (variable or "").strip()  # a secret out of a file often ends with a newline
    keys = [AccessKey(digest_of(_long_enough(variable, "HEEDFUL_API_KEY")))] if variable else []
    if file is None:
        return keys
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MissingError("the file of API keys cannot be read", expected="a text file", got=str(error), where=file) from None
    for number, line in enumerate(lines, 1):
        words = _COMMENT.sub("", line).split()
        if not words:
            continue
        key, *names = words
        where = f"{file}:{number}"
        if unknown := [name for name in names if name not in models]:
            raise ConfigError(
                "a key is for a model that is not served", expected=", ".join(models), got=unknown[0], where=where
            )
        digest = digest_of(_long_enough(key, where))
        if digest in [one.digest for one in keys]:
            raise ConfigError(
                "an API key is given twice",
                expected="each key once, with all its models",
                got="the key of an earlier line, or of HEEDFUL_API_KEY",
                where=where,
            )
        keys.append(AccessKey(digest, frozenset(names) if names else None))
    if not keys:
        raise ConfigError("the file holds no API key", expected="KEY or KEY MODEL ... on each line", got="none", where=file)
    return keys


def _long_enough(key: str, where: str) -> str:
    if len(key) < LEAST_CHARACTERS or not key.isascii():
        raise ConfigError(
            "an API key is too short",
            expected=f"at least {LEAST_CHARACTERS} characters, all ASCII",
            got=f"{len(key)} characters",
            where=where,
            next_step='make one: python -c "import secrets; print(secrets.token_urlsafe(32))"',
        )
    return key


def key_of(authorization: str, keys: Sequence[AccessKey]) -> AccessKey:
    """The key in an Authorization header. Raises ApiError (401) if it is missing or not known."""
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        raise unauthorised("expected an API key in the header: Authorization: Bearer KEY")
    digest = digest_of(given.strip())
    found = [key for key in keys if hmac.compare_digest(key.digest, digest)]
    if not found:
        raise unauthorised("Incorrect API key provided")
    return found[0]


def refused(model: str) -> ApiError:
    """403: the key does not open this model."""
    return ApiError(403, f"this API key may not use the model {model}", kind="permission_error", code="model_not_allowed")
