"""What lies where a base model should be, and what to do if it is not there. No torch here."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MOST_HEADER_BYTES = 100 * 2**20


def is_model(path: Path) -> bool:
    """Whether a path looks like a model: a folder in Hugging Face format, or a GGUF file."""
    return is_gguf(path) or (path / "config.json").is_file()


def is_gguf(path: Path) -> bool:
    """Whether a path is a file in llama.cpp's format."""
    return path.suffix.lower() == ".gguf" and path.is_file()


def what_is_there(path: Path) -> str:
    """What a path holds that is no model, in words."""
    if not path.exists():
        return "nothing"
    return "no config.json in it" if path.is_dir() else "a file"


def how_to_get(name: str, path: Path) -> str:
    """What to do in one sentence if there is no model at ``path``, written as ``name`` in settings or flags."""
    if path.is_dir() and (files := sorted(path.glob("*.gguf"))):
        return f"give the GGUF file itself: {files[0]}"
    if not path.exists() and _HUB_NAME.fullmatch(name):
        return f"if this is a model on the Hugging Face Hub, download it first: hf download {name} --local-dir {path}"
    return "download the model first (Heedful never does it by itself), then give its folder"


def count_parameters(folder: Path) -> int | None:
    """Parameters in all safetensors files of a folder, by their headers; None if there are none, or one cannot be read.

    Weights that two layers share are stored, and counted, once.
    """
    files = sorted(folder.glob("*.safetensors"))
    try:
        return sum(math.prod(shape) for file in files for shape in _shapes(file)) or None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _shapes(file: Path) -> list[list[int]]:
    """A safetensors file begins with the length of its header (8 bytes) and the header, a JSON object."""
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        if length > _MOST_HEADER_BYTES:
            raise ValueError("no header of a safetensors file")
        header = json.loads(content.read(length))
    return [described["shape"] for name, described in header.items() if name != "__metadata__"]
