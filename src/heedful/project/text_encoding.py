"""Check the encoding that a user names for plain text, such as ``windows-1252``."""

from __future__ import annotations

import codecs

from heedful.errors import ConfigError

UTF8 = "utf-8"


def check_encoding(name: str, where: str) -> None:
    """Raise ConfigError for a name that is not a text encoding. ``where``: the setting or option that names it."""
    try:
        "".encode(name)
    except (LookupError, ValueError):  # ValueError: a NUL in the name
        raise ConfigError(
            f"{where} names no encoding of text",
            expected="a name that Python knows, such as utf-8, utf-16, windows-1252, iso-8859-1, shift_jis or gb18030",
            got=repr(name),
        ) from None


def is_utf8(name: str) -> bool:
    """Whether the name means UTF-8, with or without a byte order mark."""
    return codecs.lookup(name).name in (UTF8, "utf-8-sig")
