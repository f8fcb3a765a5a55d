"""Check a model's weight files without loading them: all present, intact, and with the shapes that config.json describes."""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors import safe_open
from transformers import PreTrainedModel

from heedful.errors import ModelError

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d+)-of-(?P<count>\d+)(?P<ending>\.safetensors|\.bin)")
_NAMED = 3
"""How many missing files a message names."""


def check_weight_files(folder: Path, model: PreTrainedModel) -> None:
    """Raise ModelError if a file is missing or damaged, or if a tensor's shape differs from ``model``'s.

    ``model`` is built from the configuration; its own weights do not matter.
    """
    check_all_there(folder)
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    shapes = {path.name: _shapes(path) for path in files if path.suffix == ".safetensors"}
    ending = ".safetensors" if shapes else ".bin"
    for index in sorted(folder.glob(f"*{ending}.index.json")):
        _check_index(index, {path.name for path in files}, shapes)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for file, found in shapes.items():
        for name, shape in found.items():
            want = wanted.get(name) or wanted.get(f"{model.base_model_prefix}.{name}")
            if want is not None and want != shape:
                raise _unreadable(folder, f"{file}: {name} has the shape {shape}; config.json says {want}")


def check_all_there(folder: Path) -> None:
    """Raise ModelError if a weight file is missing; the message names missing shards."""
    # If there are safetensors files, transformers reads only those.
    ending = ".safetensors" if next(folder.glob("*.safetensors*"), None) is not None else ".bin"
    present = {path.name for path in folder.glob(f"*{ending}")}
    indexes = sorted(folder.glob(f"*{ending}.index.json"))
    wanted = {file for index in indexes for file in _listed(index).values()}
    for shard in filter(None, map(_SHARD.fullmatch, present)):
        digits, count = len(shard["count"]), int(shard["count"])
        wanted |= {f"{shard['stem']}-{i:0{digits}d}-of-{shard['count']}{shard['ending']}" for i in range(1, count + 1)}
    if missing := sorted(wanted - present):
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise _unreadable(folder, f"no {', '.join(missing[:_NAMED])}{more}")
    if wanted and not indexes:
        raise _unreadable(folder, f"shards without their index (model{ending}.index.json)")
    if not present:
        raise _unreadable(folder, "no file of weights")


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a file."""
    try:
        with safe_open(file, framework="pt") as content:
            return {name: tuple(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors has a class of its own for a damaged file
        raise _unreadable(file.parent, f"{file.name}: {str(error).partition(chr(10))[0]}") from error


def _listed(index: Path) -> dict[str, str]:
    """Tensor name -> file name, from an index."""
    try:
        return {str(name): str(file) for name, file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(index.parent, f"{index.name}: no JSON object with a weight_map ({error})") from None


def _check_index(index: Path, files: set[str], shapes: dict[str, dict[str, tuple[int, ...]]]) -> None:
    """Raise ModelError if a file or tensor that an index lists is missing."""
    for name, file in sorted(_listed(index).items()):
        if file not in files:
            raise _unreadable(index.parent, f"no {file}, which {index.name} lists")
        if file in shapes and name not in shapes[file]:
            raise _unreadable(index.parent, f"{file} lacks {name}, which {index.name} lists there")


def _unreadable(folder: Path, got: str) -> ModelError:
    return ModelError(
        "the model's weights cannot be read",
        expected="model.safetensors, or the files that its index lists: intact, and as config.json describes them",
        got=got,
        where=folder,
        next_step="download or copy the model again",
    )
