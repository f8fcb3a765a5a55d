"""A module that speaks the part of vLLM's Python API that Heedful uses, and computes with a plain transformers model.

Names, arguments, defaults and results are those of vLLM's documentation of 0.32 (``vllm.LLM``, ``vllm.SamplingParams``,
``vllm.outputs``, sleep mode); what Heedful does not use is refused. As vLLM, it keeps what it computed of prompts until
``reset_prefix_cache``, also when the weights change; loses its weights when it sleeps at level 2; has the stop token in
``token_ids`` and not in the text; and draws from a generator of its own for each seed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LogitsProcessorList,
    PreTrainedModel,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


@dataclass
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    logit_bias: dict[int, float] | None = None

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < -1:
            raise ValueError("a sampling parameter is out of range")
        if self.stop and not self.detokenize:
            raise ValueError("stop strings are only supported when detokenize is True")


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = True


def TokensPrompt(*, prompt_token_ids: list[int]) -> dict[str, Any]:
    """A TypedDict in vLLM."""
    return {"prompt_token_ids": prompt_token_ids}


@dataclass
class LLM:
    """One worker, in this process."""

    model: str
    dtype: str = "auto"
    generation_config: str = "auto"
    logprobs_mode: str = "raw_logprobs"
    enable_prefix_caching: bool | None = None
    gpu_memory_utilization: float = 0.92
    enable_sleep_mode: bool = False
    max_model_len: int | None = None
    enforce_eager: bool = False
    kv_cache_memory_bytes: int | None = None
    use_tqdm_on_load: bool = True
    _prefixes: dict[tuple[int, ...], Tensor] = field(default_factory=dict, init=False)
    _asleep: set[str] = field(default_factory=set, init=False)
    started: ClassVar[int] = 0
    """How many were made."""
    environment: ClassVar[dict[str, str]] = {}
    """The environment in which the last one was made: vLLM's own process inherits it."""

    def __post_init__(self) -> None:
        LLM.started += 1
        LLM.environment = dict(os.environ)
        dtype = torch.float16 if self.dtype == "auto" else getattr(torch, self.dtype)
        assert self.generation_config == "vllm", "the folder's generation_config.json would set defaults"
        self._model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(self.model, dtype=dtype).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(self.model)

    def generate(
        self, prompts: list[dict[str, Any]], sampling_params: list[SamplingParams], *, use_tqdm: bool = True
    ) -> list[RequestOutput]:
        del use_tqdm
        assert not self._asleep, "generate while asleep"
        outputs: list[RequestOutput] = []
        for number, (prompt, parameters) in enumerate(zip(prompts, sampling_params, strict=True)):
            ids = prompt["prompt_token_ids"]
            # Children of one request have the seeds s, s + 1, ... (vllm/v1/engine/parallel_sampling.py).
            seeds = [None if parameters.seed is None else parameters.seed + i for i in range(parameters.n)]
            completions = [self._complete(i, ids, parameters, seed) for i, seed in enumerate(seeds)]
            outputs.append(RequestOutput(str(number), ids, completions))
        return outputs

    @torch.no_grad()
    def _complete(self, index: int, prompt: list[int], parameters: SamplingParams, seed: int | None) -> CompletionOutput:
        draw = torch.Generator()
        if seed is not None:
            draw.manual_seed(seed)
        stops = [parameters.stop] if isinstance(parameters.stop, str) else parameters.stop or []
        end = None if parameters.ignore_eos else self._model.config.eos_token_id
        tokens: list[int] = []
        places: list[dict[int, Logprob]] = []
        text, reason, stop_reason = "", "length", None
        while len(tokens) < (parameters.max_tokens or math.inf):
            logits = self._logits(prompt, tokens)
            scores = logits.clone()
            for token, bias in (parameters.logit_bias or {}).items():
                scores[token] += bias
            token = _drawn(scores, parameters, draw)
            changed = {"raw_logprobs": logits, "processed_logprobs": scores}[self.logprobs_mode]
            tokens.append(token)
            places.append({token: Logprob(float(changed.log_softmax(-1)[token]))})
            if token in (parameters.stop_token_ids or []) or token == end:
                reason, stop_reason = "stop", None if token == end else token
                break
            if parameters.detokenize:
                text = str(self._tokenizer.decode(tokens, skip_special_tokens=parameters.skip_special_tokens))
                found = next((stop for stop in stops if stop in text), None)
                if found is not None:
                    text = text[: text.index(found)]
                    reason, stop_reason = "stop", found
                    break
        logprobs = None if parameters.logprobs is None else places
        return CompletionOutput(index, text, tokens, None, logprobs, reason, stop_reason)

    def _logits(self, prompt: list[int], tokens: list[int]) -> Tensor:
        if not tokens and self.enable_prefix_caching and tuple(prompt) in self._prefixes:
            return self._prefixes[tuple(prompt)]
        output = self._model(input_ids=torch.tensor([prompt + tokens]), use_cache=False)
        logits = output.logits[0, -1].float()
        if not tokens:
            self._prefixes[tuple(prompt)] = logits
        return logits

    def reset_prefix_cache(self) -> bool:
        self._prefixes.clear()
        return True

    def sleep(self, level: int = 1) -> None:
        assert self.enable_sleep_mode, "sleep without enable_sleep_mode"
        self._asleep = {"weights", "kv_cache"}
        self._prefixes.clear()
        if level == 2:
            for parameter in self._model.parameters():
                parameter.data.fill_(math.nan)

    def wake_up(self, tags: list[str] | None = None) -> None:
        self._asleep -= set(tags or ["weights", "kv_cache"])

    def collective_rpc(
        self, method: str, timeout: float | None = None, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> list[Any]:
        assert (method, timeout, args) == ("reload_weights", None, ())
        assert "weights" not in self._asleep, "weights are loaded into memory that is given up"
        self._reload_weights(**(kwargs or {}))
        return [None]

    def _reload_weights(self, weights_path: str) -> None:
        state = load_file(f"{weights_path}/model.safetensors")
        missing, unexpected = self._model.load_state_dict(state, strict=False)
        assert not unexpected
        assert all("lm_head" in name for name in missing)  # tied


def _drawn(scores: Tensor, parameters: SamplingParams, draw: torch.Generator) -> int:
    if parameters.temperature == 0:
        return int(scores.argmax())
    warpers = LogitsProcessorList()
    if parameters.top_k > 0:
        warpers.append(TopKLogitsWarper(parameters.top_k))
    if parameters.top_p < 1:
        warpers.append(TopPLogitsWarper(parameters.top_p))
    kept = warpers(torch.tensor([[0]]), scores[None] / parameters.temperature)  # pyright: ignore[reportArgumentType]
    return int(torch.multinomial(kept.softmax(-1)[0], 1, generator=draw))
