"""Low-rank adapters by PEFT: a few million trained weights on a frozen base (Hu et al. 2021; the paper trains all weights).

Every linear layer of the decoder gets an adapter: W x + 2 B A x with A [rank, in] and B [out, rank]. The base is held once, in
the compute type; adapters, their gradients and their optimiser state are float32. An adapted model keeps its class and works
like a plain one. Copies made by :func:`copy_sharing_base` share the frozen tensors, so PPO's policy, reference, reward model
and value function need only one base. A saved model is merged and plain; the adapter is saved beside it, and the next training
step continues with it.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from heedful.errors import ConfigError, ModelError
from heedful.model.dropout import decoder_layers
from heedful.model.precision import Precision, copy_of_buffers

ADAPTER_FOLDER = "adapter"
_CONFIG_FILE, _WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_NAME = "default"
_PREFIX = "base_model.model."  # what PEFT puts in front of the names in its files
_SCALE = 2  # lora_alpha / rank


def add_adapter(model: PreTrainedModel, rank: int, precision: Precision, *, seed: int = 0) -> PreTrainedModel:
    """Freeze the model, cast it to the compute type and give it a trainable adapter, in place; returned for chaining.

    If the model's folder holds an adapter of this rank, training continues with that adapter and the base under it. Otherwise
    B starts at zero, so the model computes the same as before, and A at random values that depend on ``seed``. A scalar head
    stays trainable, in float32. Raises ConfigError if PEFT is not installed, ModelError if the adapter does not fit.
    """
    peft = _peft()
    targets = [name for name, _ in linear_layers(model)]
    transposed = all(isinstance(layer, Conv1D) for _, layer in linear_layers(model))
    config = peft.LoraConfig(r=rank, lora_alpha=_SCALE * rank, target_modules=targets, fan_in_fan_out=transposed)
    head = getattr(model, "score", None)
    earlier = _earlier_adapter(model, rank)
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, model, adapter_name=_NAME)
        for name, tensor in _adapter_tensors(model):
            # PEFT would round the numbers that it draws to the base's type, so A is drawn again in float32.
            tensor.data = tensor.data.float()
            if ".lora_A." in name:
                nn.init.kaiming_uniform_(tensor, a=5**0.5)
    if earlier is not None:
        _continue_adapter(model, earlier)
    if isinstance(head, nn.Linear):
        head.requires_grad_(True)
    for parameter in model.parameters():
        kind = torch.bfloat16 if precision == "bfloat16" and not parameter.requires_grad else torch.float32
        parameter.data = parameter.data.to(kind)
    return model


def is_adapted(model: nn.Module) -> bool:
    """Whether the model has an adapter."""
    return any(name.endswith(".lora_A") for name, _ in model.named_modules())


def copy_sharing_base(model: PreTrainedModel) -> PreTrainedModel:
    """A copy with its own adapter and head on the same frozen tensors. A model without an adapter is copied whole."""
    shared = [p for p in model.parameters() if not p.requires_grad] if is_adapted(model) else []
    return copy.deepcopy(model, {id(parameter): parameter for parameter in shared})


def share_equal_tensors(model: PreTrainedModel, other: PreTrainedModel) -> int:
    """Let ``other`` use the frozen tensors of ``model``'s body where both hold the same numbers; returns the bytes saved."""
    known = {name: p for name, p in model.base_model.named_parameters() if not p.requires_grad}
    saved = 0
    for name, parameter in list(other.base_model.named_parameters()):
        same = known.get(name)
        if same is None or same is parameter or parameter.requires_grad or same.dtype != parameter.dtype:
            continue
        if same.shape == parameter.shape and same.device == parameter.device and torch.equal(same, parameter):
            owner, _, leaf = name.rpartition(".")
            setattr(other.base_model.get_submodule(owner), leaf, same)
            saved += parameter.numel() * parameter.element_size()
    return saved


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The state to save for training: adapter, head and buffers if the model has an adapter, else everything."""
    frozen = _frozen_names(model)
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


def load_trained_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Load what :func:`trained_state` returned, onto the same frozen tensors. Raises RuntimeError if the names differ."""
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or (missing := sorted(set(missing) - _frozen_names(model))):
        raise RuntimeError(f"a state of another model: missing {missing[:3]}, unexpected {unexpected[:3]}")


def _frozen_names(model: nn.Module) -> set[str]:
    if not is_adapted(model):
        return set()
    return {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """A plain float32 model with the adapter added to its weights; ``model`` is unchanged."""
    with torch.device("meta"):
        plain = type(model)(copy.deepcopy(model.config))
    plain.load_state_dict(_merged_state(model), assign=True)
    copy_of_buffers(model, plain)
    plain.tie_weights()
    return plain.eval()


def save_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Write the adapter, without a scalar head, in PEFT's format, for ``PeftModel.from_pretrained(base, folder)``."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {_PREFIX + name: tensor for name, tensor in _adapter_tensors(model)}
    save_file({name: tensor.detach().float().cpu().contiguous() for name, tensor in weights.items()}, folder / _WEIGHTS_FILE)
    layers = [(name, layer) for name, layer in model.named_modules() if _is_adapter_layer(layer)]
    first = cast(Any, layers[0][1])
    config = _peft().LoraConfig(
        r=first.r[_NAME],
        lora_alpha=first.lora_alpha[_NAME],
        target_modules=[name for name, _ in layers],
        fan_in_fan_out=bool(first.fan_in_fan_out),
        base_model_name_or_path=_base_name(model),
        inference_mode=True,
    )
    config.save_pretrained(folder)


def note_adapter(model: PreTrainedModel, folder: Path) -> None:
    """If the model's folder holds an adapter, remember it, so that :func:`add_adapter` continues with it."""
    if (folder / ADAPTER_FOLDER / _CONFIG_FILE).is_file():
        vars(model)["heedful_adapter"] = folder / ADAPTER_FOLDER


def _earlier_adapter(model: PreTrainedModel, rank: int) -> Path | None:
    folder: Path | None = vars(model).get("heedful_adapter")
    if folder is None or json.loads((folder / _CONFIG_FILE).read_text(encoding="utf-8"))["r"] != rank:
        return None
    return folder


@torch.no_grad()
def _continue_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Load an adapter that is merged into the model's weights, and subtract it from them.

    The result is the base up to float32 rounding, and exactly the base once it is rounded to bfloat16. Weights that were
    rounded on loading are read again in float32, one at a time. Raises ModelError if a shape differs.
    """
    weights = load_file(folder / _WEIGHTS_FILE)
    for name, tensor in _adapter_tensors(model):
        if _PREFIX + name not in weights or weights[_PREFIX + name].shape != tensor.shape:
            raise ModelError(
                "the adapter does not fit the model beside it",
                expected=f"a tensor {name} of shape {list(tensor.shape)}",
                got=str(list(weights[_PREFIX + name].shape)) if _PREFIX + name in weights else "none",
                where=folder,
                next_step="delete the adapter folder: training then starts a new one on the merged model",
            )
        tensor.copy_(weights[_PREFIX + name])
    for name, module in model.named_modules():
        if _is_adapter_layer(module):
            layer = cast(Any, module)
            weight = layer.base_layer.weight
            if weight.dtype == torch.float32:
                weight.sub_(layer.get_delta_weight(_NAME))
            else:
                whole = stored_tensor(folder.parent, f"{name}.weight").to(weight.device)
                weight.copy_(whole.sub_(layer.get_delta_weight(_NAME)))


def stored_tensor(folder: Path, name: str) -> Tensor:
    """One tensor of a saved model, in float32, without reading the others. Raises ModelError if it is missing."""
    index = folder / "model.safetensors.index.json"
    try:
        if index.is_file():
            file = folder / json.loads(index.read_text(encoding="utf-8"))["weight_map"][name]
        else:
            file = folder / "model.safetensors"
        with safe_open(file, framework="pt") as tensors:
            return tensors.get_tensor(name).float()
    except (OSError, KeyError, SafetensorError) as error:
        raise ModelError(
            "a tensor of the model cannot be read",
            expected=f"{name} in model.safetensors",
            got=str(error),
            where=folder,
            next_step="save the model again in plain transformers: model.save_pretrained(FOLDER)",
        ) from error


@torch.no_grad()
def _merged_state(model: PreTrainedModel) -> dict[str, Tensor]:
    converted: dict[int, Tensor] = {}  # by address, so that tied weights stay tied
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if ".lora_" in name:
            continue
        if tensor.data_ptr() not in converted:
            converted[tensor.data_ptr()] = tensor.float() if tensor.is_floating_point() else tensor
        state[name.replace(".base_layer.", ".")] = converted[tensor.data_ptr()]
    for name, module in model.named_modules():
        if _is_adapter_layer(module):
            layer = cast(Any, module)
            state[f"{name}.weight"] = layer.base_layer.weight.float() + layer.get_delta_weight(_NAME).float()
    return state


def _adapter_tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """The weights A and B, with their names in PEFT's files."""
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            yield name.replace(f".{_NAME}.", "."), parameter


def _is_adapter_layer(module: nn.Module) -> bool:
    return isinstance(getattr(module, "lora_A", None), nn.ModuleDict)


def linear_layers(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    """All linear layers inside the decoder's layers, with their names; not embeddings and heads."""
    inside = {id(module) for module in decoder_layers(model).modules()}
    return [(n, m) for n, m in model.named_modules() if id(m) in inside and isinstance(m, nn.Linear | Conv1D)]


def _base_name(model: PreTrainedModel) -> str:
    folder: Path | None = vars(model).get("heedful_adapter")
    if folder is not None and (folder / _CONFIG_FILE).is_file():
        return str(json.loads((folder / _CONFIG_FILE).read_text(encoding="utf-8")).get("base_model_name_or_path") or "")
    return str(model.name_or_path)


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            "LoRA needs PEFT, which is not installed",
            expected="the package peft",
            next_step="pip install 'heedful[lora]', or set lora_rank = 0 to train all weights",
        ) from error
    return peft
