"""Bytes of memory that each step needs on one GPU at its peak. The formulae are in docs/planning.md.

They follow the code: fp32 master weights with a bf16 compute copy (``model.precision``), AdamW (``training.optimizer``),
log-probs in chunks of rows (``functional.logprobs``), and rollouts with a KV cache for the whole batch (``model.engine``). With
several GPUs, weights, gradients and optimiser state are split evenly, as FSDP2's ``fully_shard`` does, and each GPU works on
its own microbatches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from heedful.planning.shapes import Shape
from heedful.training.config import PPOConfig, Precision, RewardConfig, SFTConfig

FP32 = 4
_CHUNK = 512  # functional.logprobs: rows of logits in memory at once
_SAMPLING_BYTES = 20  # model.engine.sampling, per logit besides the logit: fp32 logits, log-probs, probabilities; fp64 sums
_CACHE_GRID = 32  # model.engine: a cache's length is a multiple of this


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on one GPU at one moment of a step."""

    parameters: int = 0
    """Master weights, compute copies, frozen models, moving average; if they are sharded, also the gathered blocks."""
    gradients: int = 0
    optimiser: int = 0
    activations: int = 0
    cache: int = 0
    """Keys and values of the rollouts."""
    workspace: int = 0
    """Chunks of logits, the unembedding's gradient, sampling."""

    @property
    def total(self) -> int:
        """The sum of all parts, in bytes."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attended:
    """``count`` equal sequences of a microbatch: ``queries`` tokens attend to ``keys`` keys (padding included)."""

    queries: int
    keys: int
    count: int = 1


def compute_bytes(precision: Precision) -> int:
    """Bytes of a number in forward and backward passes."""
    return 2 if precision == "bfloat16" else FP32


def weight_bytes(precision: Precision) -> int:
    """Bytes of a trained parameter: its fp32 master, and its bf16 compute copy if there is one."""
    return FP32 + (2 if precision == "bfloat16" else 0)


MOMENT_BYTES = 2 * FP32
"""Bytes of Adam's two moments of a parameter."""


def adapter_parameters(shape: Shape, rank: int) -> int:
    """Trained weights of an adapter: A [rank, in] and B [out, rank] for each linear layer of all blocks."""
    return shape.layers * rank * (shape.adapted_inputs + shape.adapted_outputs)


def activation_bytes(
    shape: Shape,
    attended: Sequence[Attended],
    precision: Precision,
    *,
    dropout: bool = False,
    on_cpu: bool = False,
    lora_rank: int = 0,
    checkpointing: bool = False,
) -> int:
    """Bytes that the forward pass of one microbatch keeps for the backward pass, in all layers.

    For each token, a layer of GPT-2 (width d, feed-forward width f) keeps each norm's input and output (4 d), attention's query
    (d) and output (d), the activation's input and output (2 f), and the noise or mask of two dropouts. For each key of a
    microbatch it keeps key and value (2 d); on a CPU only once per token, because the compiled loops read them in place. With
    bf16, dropout and as many queries as keys, that is 36 d bytes per token: the 34 d of Korthikanti et al. 2022 (section 4.1),
    plus a second copy of attention's output, made when it is put back into the packed row. The formula ignores that the last
    layer computes only what is needed.

    LoRA: a frozen layer keeps no input, but its adapter keeps the input in fp32 (in bfloat16 that is one more copy per layer)
    and A's output. Activation checkpointing: each layer keeps its input, and only the layer being recomputed keeps everything.
    """
    size = compute_bytes(precision)
    tokens = sum(a.queries * a.count for a in attended)
    key_rows = sum(a.keys * a.count for a in attended)
    between_products = 2 * _norm_bytes(shape, size, on_cpu) + 2 * shape.attention_width * size
    per_token = between_products + _feed_forward_bytes(shape, size, on_cpu)
    # A frozen norm need not keep its normalised input. The compiled loops always keep their input.
    frozen_norm = shape.width * size if lora_rank and shape.rms_norm and not on_cpu else 0
    if lora_rank:
        per_token += FP32 * lora_rank * shape.adapted_layers - 2 * frozen_norm
        if size != FP32:
            # Subtract what frozen layers do not keep: outputs of two norms and of the activation (with a gate: the product).
            per_token += FP32 * shape.adapted_inputs - size * (2 * shape.width + shape.feed_forward_width)
            # The same for attention's output, which the compiled loops do not need.
            per_token -= size * shape.attention_width if on_cpu else 0
    if dropout:
        per_token += 2 * shape.width * (size if on_cpu else 1)
    layer = tokens * per_token
    if on_cpu:
        layer += tokens * 2 * shape.key_width * size
    else:
        layer += key_rows * 2 * shape.attention_width * size
        for a in attended:  # scaled_dot_product_attention keeps its output, a statistic of each row, and the mask as numbers
            layer += a.count * a.queries * (shape.attention_width * size + FP32 * shape.heads + size * a.keys)
    last = tokens * (_norm_bytes(shape, size, on_cpu) - frozen_norm + shape.width * size)
    if checkpointing:
        return shape.layers * tokens * shape.width * size + layer + last
    return shape.layers * layer + last


def _norm_bytes(shape: Shape, size: int, on_cpu: bool) -> int:
    """Bytes that a norm keeps for a token, including its output.

    RMSNorm computes in fp32. Its class keeps the fp32 copy and the normalised input; the compiled loops keep only the input.
    """
    return shape.width * (FP32 + 2 * size if shape.rms_norm and not on_cpu else 2 * size)


def _feed_forward_bytes(shape: Shape, size: int, on_cpu: bool) -> int:
    """Bytes kept per token: the activation's input and output, and with a gate also the other factor and the product.

    The compiled loops of a CPU recompute a gate's activation in the backward pass.
    """
    width = shape.feed_forward_width * size
    if shape.gated:
        return (3 if on_cpu else 4) * width
    return (5 if shape.elementwise_gelu else 2) * width


def logits_workspace(shape: Shape, targets: int, precision: Precision, *, lora_rank: int = 0) -> int:
    """Bytes that the loss needs when its backward pass starts: a chunk of logits, and the unembedding's gradient.

    With LoRA the unembedding is frozen and has no gradient.
    """
    size = compute_bytes(precision)
    chunk = min(_CHUNK, targets) * shape.vocabulary * (FP32 + (size if size != FP32 else 0))
    if lora_rank:
        return chunk
    return chunk + shape.unembedding * (FP32 + (2 * size if size != FP32 else 0))


def cache_bytes(shape: Shape, rows: int, length: int, precision: Precision) -> int:
    """Bytes of the keys and values of ``rows`` sequences of ``length`` tokens in all layers."""
    length = -(-length // _CACHE_GRID) * _CACHE_GRID
    return 2 * shape.layers * shape.key_width * length * rows * compute_bytes(precision)


def sft_memory(shape: Shape, config: SFTConfig, *, gpus: int) -> dict[str, Memory]:
    """Memory at each moment of supervised fine-tuning (SPEC 3.2); the largest is its peak. gpus: 0 for a CPU."""
    longest = config.max_prompt_tokens + config.max_response_tokens
    sequences = max(1, min(config.tokens_per_microbatch // longest, _share(config.batch_size, gpus)))
    attended = [Attended(queries=longest, keys=longest, count=sequences)]
    kept = activation_bytes(
        shape,
        attended,
        config.precision,
        dropout=config.residual_dropout > 0,
        on_cpu=gpus == 0,
        lora_rank=config.lora_rank,
        checkpointing=config.activation_checkpointing,
    )
    return _training_moments(
        shape,
        shape.parameters,
        config,
        gpus,
        activations=kept,
        workspace=logits_workspace(shape, sequences * config.max_response_tokens, config.precision, lora_rank=config.lora_rank),
        accumulates=sequences < _share(config.batch_size, gpus),
    )


def reward_memory(shape: Shape, config: RewardConfig, *, responses: int, gpus: int) -> dict[str, Memory]:
    """Memory at each moment of reward modelling, with each prompt computed once for its ``responses`` (K) (SPEC 3.3).

    With ``trained_layers``, only those layers keep activations and have gradients and moments.
    """
    prompt, response = config.max_prompt_tokens, config.max_response_tokens
    prompts = max(1, min(config.tokens_per_microbatch // (prompt + responses * response), _share(config.batch_size, gpus)))
    attended = [
        Attended(queries=prompt, keys=prompt, count=prompts),
        Attended(queries=response, keys=prompt + response, count=prompts * responses),
    ]
    return _training_moments(
        shape,
        shape.scalar_parameters,
        config,
        gpus,
        activations=activation_bytes(
            trained_part(shape, config),
            attended,
            config.precision,
            on_cpu=gpus == 0,
            lora_rank=config.lora_rank,
            checkpointing=config.activation_checkpointing,
        )
        if config.gradient_epochs
        else 0,
        trained=_trained_parameters(shape, config),
        head=shape.width,
        workspace=0,
        accumulates=prompts < _share(config.batch_size, gpus),
    )


def trained_part(shape: Shape, config: RewardConfig) -> Shape:
    """The shape of the layers that learn."""
    return shape if config.trained_layers is None else replace(shape, layers=min(config.trained_layers, shape.layers))


def _trained_parameters(shape: Shape, config: RewardConfig) -> int:
    """Number of a reward model's weights that learn by gradients: all, or those of the last layers and the head."""
    if config.trained_layers is None:
        return shape.scalar_parameters
    return trained_part(shape, config).layers * shape.block_parameters + shape.width if config.trained_layers else 0


def ppo_memory(policy: Shape, reward: Shape, config: PPOConfig, *, gpus: int) -> dict[str, Memory]:
    """Memory at each moment of PPO (SPEC 3.5).

    There are four models: policy, frozen reference, frozen reward model and value function. The moving average of the policy is
    a fifth copy, in fp32. With LoRA each model is an adapter (and head) on one frozen base, or on two bases if reward model and
    policy have different shapes.
    """
    precision, size = config.precision, compute_bytes(config.precision)
    longest = config.max_prompt_tokens + config.max_response_tokens
    policy_trained, value_trained, held = _ppo_parameters(policy, reward, config)
    parameters = _sharded(held, gpus) + _gathered(policy, size, gpus)
    optimiser = _sharded((policy_trained + value_trained) * MOMENT_BYTES, gpus)

    rows = _share(config.batch_size, gpus)
    minibatch = _share(config.batch_size // config.minibatches, gpus)
    sequences = max(1, min(config.tokens_per_microbatch // longest, minibatch))
    attended = [Attended(queries=longest, keys=longest, count=sequences)]
    targets = sequences * config.max_response_tokens
    if config.ptx_coefficient:
        # There are two backward passes, one after the other (SPEC 3.6), so the larger microbatch counts.
        share = -(-minibatch * config.ptx_examples_per_episode // config.inner_epochs)
        count = max(1, min(config.tokens_per_microbatch // config.ptx_context_length, share))
        if count * config.ptx_context_length > sequences * longest:
            attended = [Attended(queries=config.ptx_context_length, keys=config.ptx_context_length, count=count)]
        targets = max(targets, count * config.ptx_context_length)
    accumulates = bool(config.ptx_coefficient) or sequences < minibatch
    policy_gradient, value_gradient = _sharded(policy_trained * FP32, gpus), _sharded(value_trained * FP32, gpus)
    value_attended = [Attended(queries=longest, keys=longest, count=sequences)]
    kept: dict[str, Any] = {
        "on_cpu": gpus == 0,
        "lora_rank": config.lora_rank,
        "checkpointing": config.activation_checkpointing,
    }
    return {
        "rollouts": Memory(
            parameters=parameters,
            optimiser=optimiser,
            cache=cache_bytes(policy, rows, longest, precision),
            workspace=rows * policy.vocabulary * (size + _SAMPLING_BYTES),  # all rows are generated at once
        ),
        "policy backward": Memory(
            parameters=parameters,
            optimiser=optimiser,
            gradients=policy_gradient if accumulates else 0,
            activations=activation_bytes(policy, attended, precision, **kept),
            workspace=logits_workspace(policy, targets, precision, lora_rank=config.lora_rank),
        ),
        "value backward": Memory(
            parameters=parameters,
            optimiser=optimiser,
            gradients=policy_gradient + (value_gradient if sequences < minibatch else 0),
            activations=activation_bytes(reward, value_attended, precision, **kept),
        ),
        "optimiser step": Memory(parameters=parameters, optimiser=optimiser, gradients=policy_gradient + value_gradient),
        **_saving(policy.parameters, config.lora_rank, parameters, optimiser),
    }


def _ppo_parameters(policy: Shape, reward: Shape, config: PPOConfig) -> tuple[int, int, int]:
    """Numbers of trained weights of policy and value function, and the bytes of all models' weights, unsharded."""
    size, scalar = compute_bytes(config.precision), reward.scalar_parameters
    if config.lora_rank:
        bases = policy.parameters * size + (0 if reward == policy else scalar * size)
        policy_trained = adapter_parameters(policy, config.lora_rank)
        value_trained = adapter_parameters(reward, config.lora_rank) + reward.width
        # Policy, its average and its reference; value function and reward model.
        return policy_trained, value_trained, bases + policy_trained * (2 * FP32 + size) + value_trained * (FP32 + size)
    trained = weight_bytes(config.precision)
    return policy.parameters, scalar, policy.parameters * (trained + size + FP32) + scalar * (trained + size)


def _saving(parameters: int, lora_rank: int, held: int, optimiser: int) -> dict[str, Memory]:
    """With LoRA, saving is a moment too, because the merged model is a whole fp32 copy. Otherwise no copy is made."""
    return {"saving": Memory(parameters=held, optimiser=optimiser, workspace=parameters * FP32)} if lora_rank else {}


def peak(moments: Mapping[str, Memory]) -> int:
    """Bytes at the moment that needs the most memory."""
    return max(memory.total for memory in moments.values())


def _training_moments(
    shape: Shape,
    parameters: int,
    config: SFTConfig | RewardConfig,
    gpus: int,
    *,
    activations: int,
    workspace: int,
    accumulates: bool,
    trained: int | None = None,
    head: int = 0,
) -> dict[str, Memory]:
    """The moments of a step with one model: the start and the end of the last microbatch's backward pass (LoRA: also saving).

    trained: how many of its ``parameters`` learn, if not all.
    If there are several microbatches, the gradients of the earlier ones already exist at the start.
    """
    size = compute_bytes(config.precision)
    trained, held = parameters if trained is None else trained, parameters * weight_bytes(config.precision)
    if config.lora_rank:
        trained = adapter_parameters(shape, config.lora_rank) + head
        held = parameters * size + trained * FP32
    weights = _sharded(held, gpus) + _gathered(shape, size, gpus)
    optimiser = _sharded(trained * MOMENT_BYTES, gpus)
    gradients = _sharded(trained * FP32, gpus)
    return {
        "backward pass": Memory(
            parameters=weights,
            optimiser=optimiser,
            gradients=gradients if accumulates else 0,
            activations=activations,
            workspace=workspace,
        ),
        "optimiser step": Memory(parameters=weights, optimiser=optimiser, gradients=gradients),
        **_saving(parameters, config.lora_rank, weights, optimiser),
    }


def _share(rows: int, gpus: int) -> int:
    """Number of rows of a batch on the GPU with the most rows."""
    return -(-rows // max(1, gpus))


def _sharded(bytes_: int, gpus: int) -> int:
    return -(-bytes_ // max(1, gpus))


def _gathered(shape: Shape, size: int, gpus: int) -> int:
    """Bytes for sharded weights: two gathered blocks (one in use, the next arriving), one block's gradient, the embedding."""
    return (3 * shape.block_parameters + shape.unembedding) * size if gpus > 1 else 0
