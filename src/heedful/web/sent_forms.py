"""Forms that browsers send: checked by type and size before anything is decoded, and decoded outside the event loop.

A plain form is ``application/x-www-form-urlencoded`` in UTF-8 and nothing else: if senders could name the codec, they could
keep the server busy for minutes. Only a route for uploads takes ``multipart/form-data``, in UTF-8 too.
"""

from __future__ import annotations

from email.message import Message
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from heedful.errors import DataError
from heedful.project.storable import LARGEST_WHOLE
from heedful.web.security import declared_length

URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
MOST_FIELDS = 2_000
PUBLIC_BYTES = 20_000
"""Largest form of a visitor who is not logged in."""


class FormValues:
    """The fields of a submitted form and, for an upload, the files' bytes."""

    def __init__(self, values: list[tuple[str, str]], files: dict[str, bytes] | None = None) -> None:
        self._values, self.files = values, files or {}
        if any("\x00" in name or "\x00" in value for name, value in values):
            raise DataError("this form cannot be read", expected="text without null characters")

    def text(self, name: str, default: str | None = None) -> str:
        """One field, newlines as "\\n". Raises DataError if it was not sent and there is no default."""
        found = self.all(name)
        if found:
            return found[0]
        if default is None:
            raise DataError("a field of the form is missing", expected=f"the field {name}")
        return default

    def all(self, name: str) -> list[str]:
        """All values sent under a name."""
        return [value.replace("\r\n", "\n") for key, value in self._values if key == name]

    def has(self, name: str) -> bool:
        """Whether the field was sent, as for a ticked box."""
        return any(key == name for key, _ in self._values)

    def names(self) -> list[str]:
        """Every field's name, once, in the order of the form."""
        return list(dict.fromkeys(key for key, _ in self._values))

    def whole(self, name: str, default: int | None = None) -> int | None:
        """A whole number; the default if the field is empty or absent. Raises DataError for anything else."""
        text = self.text(name, "").strip()
        if not text:
            return default
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdecimal() and len(digits) <= 10) or abs(int(text)) > LARGEST_WHOLE:
            expected = f"digits, at most {LARGEST_WHOLE}"
            raise DataError(f"{name.replace('_', ' ')} is not a whole number", expected=expected, got=repr(text[:20]))
        return int(text)


def is_form(request: Request) -> bool:
    """Whether the request declares its body as a form of either type."""
    return _content_type(request).get_content_type() in (URLENCODED, MULTIPART)


async def sent_form(request: Request, *, public: bool = False, upload: bool = False) -> FormValues:
    """The form of a request, read once. Raises HTTPException (413, 415) and DataError."""
    found: FormValues | None = getattr(request.state, "form", None)
    if found is None:
        multipart = upload and _content_type(request).get_content_type() == MULTIPART
        found = request.state.form = await (_uploaded(request) if multipart else _plain(request, public=public))
    return found


async def _plain(request: Request, *, public: bool) -> FormValues:
    _require(request, URLENCODED)
    if public and declared_length(request) > PUBLIC_BYTES:
        raise HTTPException(413)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if public and len(body) > PUBLIC_BYTES:
            raise HTTPException(413)
    return await run_in_threadpool(_decoded, bytes(body))


def _decoded(body: bytes) -> FormValues:
    try:
        text = body.decode("utf-8")
        return FormValues(
            parse_qsl(text, keep_blank_values=True, encoding="utf-8", errors="strict", max_num_fields=MOST_FIELDS)
        )
    except ValueError as error:  # (UnicodeDecodeError is one)
        raise DataError("this form cannot be read", expected=f"UTF-8, at most {MOST_FIELDS} fields") from error


async def _uploaded(request: Request) -> FormValues:
    _require(request, MULTIPART)
    async with request.form(max_files=1, max_fields=50) as form:
        files: dict[str, bytes] = {}
        values: list[tuple[str, str]] = []
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                files[name] = await value.read()
            else:
                values.append((name, value))
    return FormValues(values, files)


def _content_type(request: Request) -> Message:
    message = Message()
    message["content-type"] = request.headers.get("content-type", "")
    return message


def _require(request: Request, wanted: str) -> None:
    sent = _content_type(request)
    charset = str(sent.get_param("charset", "utf-8")).lower()
    if sent.get_content_type() != wanted or charset not in ("utf-8", "utf8"):
        raise HTTPException(415, f"expected {wanted} in UTF-8")
