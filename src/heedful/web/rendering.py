"""Templates, and static files with a hash of their content in the address."""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from heedful import __version__
from heedful.errors import MissingError
from heedful.web.navigation import links
from heedful.web.shown_text import beginning_of_turns, markdown, rendered, speaker

if TYPE_CHECKING:
    from heedful.web.routing import Visit

TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain"}

WORDS: Mapping[str, str] = {
    "write_prompt": "Write a prompt",
    "demonstrate": "Write a demonstration",
    "rank": "Rank outputs",
    "rate": "Rate outputs",
    "review_prompt": "Describe a prompt",
    "review_personal_data": "Look for personal data",
    "toxicity": "Judge toxicity",
    "flag_sensitive": "Flag sensitive speech",
    "score_demonstration": "Score a demonstration",
    "self_assess": "Say what you know well",
    "training": "training",
    "evaluation": "evaluation",
    "screening": "screening",
    "held_out": "held-out",
    "candidate": "candidate",
    "user": "user",
    "labeler": "labeler",
    "researcher": "researcher",
    "admin": "admin",
}
"""The words on pages for names in the database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticFile:
    """A static file."""

    content: bytes
    media_type: str


class Rendering:
    """Pages of one application: the templates with its title, and the static files."""

    def __init__(self, *, title: str) -> None:
        self.static, self.version = _static_files()
        self._title = title

    def static_path(self, name: str) -> str:
        """The address of a static file. It changes when any static file does, so browsers may keep the file forever."""
        if name not in self.static:
            raise MissingError("there is no such static file", got=name)
        return f"/static/{self.version}/{name}"

    def render(self, visit: Visit, template: str, values: Mapping[str, Any]) -> str:
        """A page. Templates also get visit, person (or none), csrf_token, csrf_field(), sections, pages, flash and path."""
        path = visit.request.url.path
        sections, pages = links(path, {who: visit.may(who) for who in ("user", "labeler", "researcher", "admin")})
        common = {
            "static": self.static_path,
            "app_title": self._title,
            "app_version": __version__,
            "visit": visit,
            "person": visit.somebody,
            "csrf_token": visit.csrf_token,
            "csrf_field": lambda: Markup('<input type="hidden" name="csrf" value="{}">').format(visit.csrf_token),
            "sections": sections,
            "pages": pages,
            "flash": visit.flash,
            "path": path,
        }
        return _environment().get_template(template).render(common | dict(values))


@cache
def _environment() -> Environment:
    """The templates, compiled once in a process."""
    made = Environment(
        loader=PackageLoader("heedful.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"when": when, "day": day, "words": words, "count": count, "ago": ago, "size": size}
    made.filters |= {"markdown": markdown, "rendered": rendered, "speaker": speaker}
    made.filters["beginning"] = beginning_of_turns
    return made


@cache
def _static_files() -> tuple[Mapping[str, StaticFile], str]:
    """The static files by name, read once in a process, and the hash of them all.

    One version for all files: modules import each other by relative paths, so they must change together.
    """
    root = Path(str(files("heedful.web") / "static"))
    found: dict[str, StaticFile] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            kind = TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            media_type = f"{kind}; charset=utf-8" if kind.startswith(("text/", "image/svg")) else kind
            found[path.relative_to(root).as_posix()] = StaticFile(content=path.read_bytes(), media_type=media_type)
    digest = hashlib.sha256()
    for name, file in sorted(found.items()):
        digest.update(f"{name}\n{len(file.content)}\n".encode())
        digest.update(file.content)
    return found, digest.hexdigest()[:16]


# ---------------------------------------------------------------------------------------------------- filters


def when(seconds: float | None) -> Markup:
    """A moment in UTC, which page.js shows in the reader's time zone; a dash for None."""
    if seconds is None:
        return Markup("–")
    moment = datetime.fromtimestamp(seconds, UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        moment.isoformat(timespec="seconds"), moment.strftime("%Y-%m-%d %H:%M UTC")
    )


def day(seconds: float | None) -> Markup:
    """A day, in UTC."""
    if seconds is None:
        return Markup("–")
    moment = datetime.fromtimestamp(seconds, UTC)
    return Markup('<time datetime="{0}">{0}</time>').format(moment.strftime("%Y-%m-%d"))


def ago(seconds: float) -> str:
    """A duration in its largest fitting unit: 40 s, 12 min, 3 h, 5 days."""
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length * (2 if unit == "days" else 1):
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def words(name: str) -> str:
    """The words for a kind, phase, role or group; in other names, spaces replace underscores."""
    return WORDS.get(name, name.replace("_", " "))


def count(number: int) -> str:
    """A number with thin spaces between thousands."""
    return f"{number:,}".replace(",", "\u202f")


def size(num_bytes: int) -> str:
    """The size of a file: 12 kB, 3.4 MB."""
    return f"{num_bytes / 1e6:,.1f} MB" if num_bytes >= 1e6 else f"{max(num_bytes / 1e3, 1):.0f} kB"
