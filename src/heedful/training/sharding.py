"""Models, gradients and optimiser state in shards, one per rank (FSDP2), and checkpoints for any number of ranks.

Models are sharded only under ``torchrun``. Each forward and backward pass gathers the weights layer by layer, in the compute
type. Gradients are summed over the ranks in float32.
"""

from __future__ import annotations

import atexit
import copy
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor import empty as empty_sharded
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.errors import ConfigError
from heedful.model.attention import use_heedful_attention
from heedful.model.dropout import decoder_layers
from heedful.model.lora import is_adapted, load_trained_state, trained_state
from heedful.model.precision import MasterWeights, Precision, copy_of_buffers, frozen, rounded_copy
from heedful.model.saving import save_model
from heedful.ranks.collectives import barrier, require_same
from heedful.ranks.world import world
from heedful.training.config import StepConfig

REST_FILE = "rest.pt"
_MARK = "in the shards:"  # stands in the rest for a tensor that is in the shards; its name follows


def master_weights(model: PreTrainedModel, config: StepConfig) -> MasterWeights:
    """The model's :class:`MasterWeights`. Under ``torchrun`` the model is sharded, and its shards are the fp32 master.

    Then there is no separate compute copy: FSDP gathers each layer's weights in the compute type. Raises as :func:`shard` does.
    """
    sharded = world().size > 1
    weights = MasterWeights(shard(model, config.precision), "float32" if sharded else config.precision)
    if config.activation_checkpointing:
        with warnings.catch_warnings():  # the new name of this argument is missing in the first 5.x versions
            warnings.simplefilter("ignore", FutureWarning)
            weights.compute.gradient_checkpointing_enable({"use_reentrant": False})
    return weights


def shard(model: PreTrainedModel, precision: Precision) -> PreTrainedModel:
    """Under ``torchrun``, leave each rank its shard of every parameter, in place; returned for chaining.

    Raises ConfigError for a model with adapters, or if the ranks were given different weights.
    """
    if world().size == 1:
        return model
    require_same("models", [float(parameter.detach().sum(dtype=torch.float64)) for parameter in model.parameters()])
    if is_adapted(model):
        raise ConfigError(
            "adapters (LoRA) cannot be trained under torchrun yet",
            expected="lora_rank = 0, or one process",
            got=f"lora_rank > 0 on {world().size} ranks",
            next_step="set lora_rank = 0, or start without torchrun",
        )
    trained = any(parameter.requires_grad for parameter in model.parameters())
    compute = torch.bfloat16 if precision == "bfloat16" and trained else None
    policy = MixedPrecisionPolicy(
        param_dtype=compute, reduce_dtype=torch.float32 if compute is not None else None, cast_forward_inputs=False
    )
    arguments: dict[str, Any] = {"mesh": _mesh(), "mp_policy": policy}
    for layer in decoder_layers(model):
        fully_shard(layer, **arguments)
    # The model itself gathers embeddings, last norm and head, and keeps them until the backward pass has ended, because the
    # head's weights are read outside any module's forward pass.
    fully_shard(model, **arguments)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # Losses are divided by the whole batch's counts, so gradients are summed, not averaged.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # the only reduction that gloo has
    vars(model)["heedful_sharded_body"] = _body(model)
    register_fsdp_forward_method(model, "heedful_sharded_body")
    return model


def _body(model: PreTrainedModel) -> Callable[..., Any]:
    """A function that runs the model without its head, which FSDP can treat like the whole model's forward pass."""

    def body(**inputs: Any) -> Any:
        output = model.base_model(**inputs)
        output.last_hidden_state = output.last_hidden_state.clone()  # FSDP puts a hook on it, which a view may lose
        return output

    return body


def whole(model: PreTrainedModel) -> PreTrainedModel | None:
    """Gather a sharded model into a plain one in rank 0's main memory; None on other ranks. Other models are returned as is."""
    if not isinstance(model, FSDPModule):
        return model
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        full = whole_tensor(tensor)  # one at a time, to save memory; all ranks must take part
        if world().is_rank_zero:
            state[name] = full.cpu()
    return _plain(model, state) if world().is_rank_zero else None


def for_generation(weights: MasterWeights, precision: Precision) -> PreTrainedModel:
    """The compute copy. A sharded model is gathered into a plain copy on each rank.

    While it exists, the plain copy takes 2 bytes per parameter (float32: 4) of each GPU's memory.
    """
    if not isinstance(weights.compute, FSDPModule):
        return weights.compute
    return _gathered_everywhere(weights.compute, precision)


def frozen_copy(model: PreTrainedModel, precision: Precision) -> PreTrainedModel:
    """A copy for inference in the compute type. A sharded model is gathered into a plain copy on each rank."""
    if isinstance(model, FSDPModule):
        return _gathered_everywhere(model, precision)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    base = [p for p in model.parameters() if not p.requires_grad and p.dtype == dtype] if is_adapted(model) else []
    return frozen(rounded_copy(model, dtype, shared=base), precision)


def _gathered_everywhere(model: PreTrainedModel, precision: Precision) -> PreTrainedModel:
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        cast_to = torch.bfloat16 if precision == "bfloat16" and name in parameters else tensor.dtype
        state[name] = whole_tensor(tensor.to(cast_to))
    return _plain(model, state)


def _plain(model: PreTrainedModel, state: dict[str, Tensor]) -> PreTrainedModel:
    """A plain model with these weights, frozen."""
    plain_class = cast(type[PreTrainedModel], type(model).__bases__[1])  # the class from which FSDP derived its own
    with torch.device("meta"):
        plain = use_heedful_attention(plain_class(copy.deepcopy(model.config)))
    plain.load_state_dict(state, assign=True)
    copy_of_buffers(model, plain)
    plain.tie_weights()
    return plain.requires_grad_(False).eval()


def save_whole(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save a model and its tokenizer. A sharded model is gathered; rank 0 writes it, and the other ranks wait."""
    save_gathered(whole(model), tokenizer, folder)


def save_gathered(gathered: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save what :func:`whole` returned, on rank 0; the other ranks wait."""
    if gathered is not None and world().is_rank_zero:
        save_model(gathered, tokenizer, folder)
    barrier()


def whole_tensor(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered from all ranks. Other tensors are returned as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def state_of(part: Any) -> dict[str, Any]:
    """The state of a model, an optimiser or another part, for a checkpoint; without the frozen base under an adapter.

    The base is an input of the run anyway, and the run's identity has its digest (:meth:`Run.resume`).
    """
    return trained_state(part) if isinstance(part, torch.nn.Module) else part.state_dict()


def load_into(part: Any, state: dict[str, Any]) -> None:
    """Load what :func:`state_of` returned. A sharded model or its optimiser takes its own shards from whole tensors."""
    if isinstance(part, FSDPModule):
        own = cast(Any, part).state_dict()
        state = {name: _sharded_like(tensor, own[name]) for name, tensor in state.items()}
    elif isinstance(part, torch.optim.Optimizer) and world().size > 1:
        parameters = [p for group in part.param_groups for p in group["params"]]
        moments = {
            i: {name: _sharded_like(value, parameters[i]) for name, value in values.items()}
            for i, values in state["state"].items()
        }
        state = {**state, "state": moments}
    if isinstance(part, torch.nn.Module):
        load_trained_state(part, state)
    else:
        cast(Any, part).load_state_dict(state)


def load_tensor(model: PreTrainedModel, name: str, tensor: Tensor) -> None:
    """Replace one of a model's tensors, in place. A sharded model takes its shard of the whole tensor."""
    own: Tensor = cast(Any, model).state_dict()[name]
    model.load_state_dict({name: _sharded_like(tensor.to(own.dtype), own)}, strict=False)


# ---------------------------------------------------------------- checkpoints


def write_sharded(folder: Path, state: Mapping[str, Any]) -> None:
    """All ranks write their shards of ``state`` into an existing folder; rank 0 also writes what is not sharded."""
    shards: dict[str, Tensor] = {}
    rest = _without_shards(dict(state), "", shards)
    dcp.save(cast(Any, shards), storage_writer=dcp.FileSystemWriter(folder))
    if world().is_rank_zero:
        with open(folder / REST_FILE, "wb") as file:
            torch.save(rest, file)
    barrier()


def read_sharded(folder: Path) -> dict[str, Any]:
    """Read the state in a folder. Each rank reads only its own shards, however many ranks wrote them; one process reads all."""
    rest = torch.load(folder / REST_FILE, map_location="cpu", weights_only=True)
    reader = dcp.FileSystemReader(folder)
    kept = reader.read_metadata().state_dict_metadata
    room = {name: _room(described) for name, described in kept.items() if isinstance(described, TensorStorageMetadata)}
    with warnings.catch_warnings():  # torch warns that it assumes a single process, but each rank reads by itself
        warnings.simplefilter("ignore", UserWarning)
        dcp.load(cast(Any, room), storage_reader=reader, no_dist=True)
    return _with_shards(rest, room)


def _without_shards(value: Any, path: str, shards: dict[str, Tensor]) -> Any:
    if isinstance(value, DTensor):
        shards[path] = value
        return _MARK + path
    if isinstance(value, dict):
        return {key: _without_shards(item, f"{path}/{key}", shards) for key, item in cast(dict[Any, Any], value).items()}
    return value


def _with_shards(value: Any, shards: dict[str, Tensor]) -> Any:
    if isinstance(value, str) and value.startswith(_MARK):
        return shards[value.removeprefix(_MARK)]
    if isinstance(value, dict):
        return {key: _with_shards(item, shards) for key, item in cast(dict[Any, Any], value).items()}
    return value


def _room(described: TensorStorageMetadata) -> Tensor:
    """An empty tensor to read into: this rank's shard, or the whole tensor in one process."""
    if world().size == 1:
        return torch.empty(described.size, dtype=described.properties.dtype)
    return empty_sharded(*described.size, dtype=described.properties.dtype, device_mesh=_mesh(), placements=[Shard(0)])


def _sharded_like(value: Any, like: Tensor) -> Any:
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or isinstance(value, DTensor):
        return value
    if value.shape != like.shape:  # Adam's count of steps
        return value
    # Every rank has the whole tensor: nothing is sent.
    replicated = DTensor.from_local(value.to(like.device), like.device_mesh, [Replicate()], run_check=False)
    return replicated.redistribute(placements=like.placements)


_meshes: list[DeviceMesh] = []


def _mesh() -> DeviceMesh:
    if not _meshes:
        _meshes.append(init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (world().size,)))
        atexit.register(_let_the_group_go)  # runs before the function that ends the group (ranks/world.py)
    return _meshes[0]


def _let_the_group_go() -> None:
    """Release the meshes' group, so that its threads can end before Python does (DTensor caches meshes, torch 2.13)."""
    for mesh in _meshes:
        getattr(mesh, "_pg_registry", {}).clear()
