"""What is at the path of a base model, and what to do if that is not a model. This module does not import torch."""

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
    """What a path that is not a model holds, in words."""
    if not path.exists():
        return "nothing"
    return "no config.json in it" if path.is_dir() else "a file"


def how_to_get(name: str, path: Path) -> str:
    """One sentence on what to do if there is no model at ``path``. name: the path as the settings or flags spell it."""
    if path.is_dir() and (files := sorted(path.glob("*.gguf"))):
        return f"give the GGUF file itself: {files[0]}"
    if not path.exists() and _HUB_NAME.fullmatch(name):
        return f"if this is a model on the Hugging Face Hub, download it first: hf download {name} --local-dir {path}"
    return "download the model first (Heedful never does it by itself), then give its folder"


def count_parameters(folder: Path) -> int | None:
    """Number of parameters in a folder's safetensors files, from their headers; None if there are none or one is unreadable.

    Weights that two layers share are stored and counted once.
    """
    files = sorted(folder.glob("*.safetensors"))
    try:
        return sum(math.prod(shape) for file in files for shape in _shapes(file)) or None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _shapes(file: Path) -> list[list[int]]:
    """The shape of each tensor. The file begins with the header's length (8 bytes), then the header, a JSON object."""
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        if length > _MOST_HEADER_BYTES:
            raise ValueError("not the header of a safetensors file")
        header = json.loads(content.read(length))
    return [described["shape"] for name, described in header.items() if name != "__metadata__"]
