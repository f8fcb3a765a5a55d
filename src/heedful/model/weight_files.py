"""The files of a model's weights: whole, all there, and of the shapes that config.json describes. Nothing is loaded."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open
from transformers import PreTrainedModel

from heedful.errors import ModelError


def check_weight_files(folder: Path, model: PreTrainedModel) -> None:
    """Raises ModelError for a file that is missing or damaged, or a tensor of another shape than ``model``'s.

    ``model`` is what the configuration describes; its own weights do not matter.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    if not files:
        raise _unreadable(folder, "no file of weights")
    shapes = {path.name: _shapes(path) for path in files if path.suffix == ".safetensors"}
    for index in sorted(folder.glob("*.index.json")):
        _check_index(index, {path.name for path in files}, shapes)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for file, found in shapes.items():
        for name, shape in found.items():
            want = wanted.get(name) or wanted.get(f"{model.base_model_prefix}.{name}")
            if want is not None and want != shape:
                raise _unreadable(folder, f"{file}: {name} has the shape {shape}; config.json makes it {want}")


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a file."""
    try:
        with safe_open(file, framework="pt") as content:
            return {name: tuple(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors has a class of its own for a damaged file
        raise _unreadable(file.parent, f"{file.name}: {str(error).partition(chr(10))[0]}") from error


def _check_index(index: Path, files: set[str], shapes: dict[str, dict[str, tuple[int, ...]]]) -> None:
    """Everything that an index lists is there."""
    try:
        file_of = {str(name): str(file) for name, file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(index.parent, f"{index.name}: no JSON object with a weight_map ({error})") from None
    for name, file in sorted(file_of.items()):
        if file not in files:
            raise _unreadable(index.parent, f"no {file}, which {index.name} lists")
        if file in shapes and name not in shapes[file]:
            raise _unreadable(index.parent, f"{file} lacks {name}, which {index.name} lists there")


def _unreadable(folder: Path, got: str) -> ModelError:
    return ModelError(
        "the model's weights cannot be read",
        expected="model.safetensors, or the files that its index lists: whole, and as config.json describes them",
        got=got,
        where=folder,
        next_step="download or copy the model again",
    )
