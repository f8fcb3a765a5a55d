"""vLLM as another engine, called like :func:`heedful.model.generate`, for models that need its speed.

Follows the Python API in the documentation of vLLM 0.32 (``LLM.generate`` over ``TokensPrompt``, sleep mode, and
``collective_rpc("reload_weights", kwargs={"weights_path": ...})``). Each call sends the model's current weights: the first
call starts vLLM, later ones make it reload the weights in place, so PPO samples each batch from the policy that it trains.
Between calls vLLM sleeps and leaves its GPU memory to the trainer.

Tested with a stand-in that has this API and computes with a small model (``tests/vllm_stand_in.py``), never with vLLM itself.
"""

from __future__ import annotations

import functools
import gc
import importlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.errors import ConfigError, HeedfulError
from heedful.model.engine.sampling import SEED_MASK, Sampling
from heedful.model.engine.scheduler import Generation, check_fits, generate
from heedful.model.saving import save_model

EngineName = Literal["heedful", "vllm"]
# Share of the GPU memory free at vLLM's start. The trainer needs the rest for what it allocates meanwhile.
_SHARE_OF_FREE_MEMORY = 0.9


class Generate(Protocol):
    """A function that generates: :func:`heedful.model.generate`, or vLLM called in the same way."""

    def __call__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        *,
        batch_size: int = 512,
        advance: Callable[[int], None] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> list[Generation]: ...


def generator(engine: EngineName) -> Generate:
    """The engine of this name. Raises ConfigError if vLLM is not installed or cannot serve this process."""
    if engine == "heedful":
        return generate
    vllm = _vllm()
    if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        raise ConfigError(
            'engine = "vllm" works in a run of one process only',
            expected="one process",
            got=f"{torch.distributed.get_world_size()} processes",
            next_step='set engine = "heedful"',
        )
    return _only_engine(vllm)


class VLLMEngine:
    """Generates with vLLM. Called like :func:`heedful.model.generate`, but it needs the tokenizer.

    One instance holds one running vLLM. A model of another architecture or type restarts it.
    """

    def __init__(self, vllm: Any) -> None:
        self._vllm = vllm
        self._llm: Any = None
        self._running: tuple[Any, ...] | None = None

    def __call__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        *,
        batch_size: int = 512,
        advance: Callable[[int], None] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> list[Generation]:
        """Sample one response to each prompt, in order, from the model's current weights.

        Each request is one sequence (n = 1) with its own seed. (For n = K, vLLM would use the seeds s, s + 1, ... and make K
        requests that share the prompt through the prefix cache, as ours do.) batch_size is ignored: vLLM fills its memory.
        advance is called once, at the end.
        Raises ValueError, UserError (a prompt does not fit), StorageError (the weights cannot be written), HeedfulError (vLLM
        gave up a request).
        """
        del batch_size
        if len(prompts) != len(seeds):
            raise ValueError(f"expected a seed for each of {len(prompts)} prompts, got {len(seeds)}")
        if tokenizer is None:
            raise ValueError("vLLM needs the tokenizer")
        if sampling.penalised or sampling.top_logprobs:
            raise ValueError("penalties and top_logprobs are only for Heedful's own engine")
        for prompt in prompts:
            check_fits(model, prompt, sampling)
        if not prompts:
            return []
        with tempfile.TemporaryDirectory(prefix="heedful-vllm-") as folder:
            save_model(model, tokenizer, Path(folder) / "model")
            self._load(model, Path(folder) / "model")
        requests = [self._vllm.TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts]
        parameters = [self._parameters(sampling, seed) for seed in seeds]
        try:
            outputs = self._llm.generate(requests, parameters, use_tqdm=False)
        finally:
            if torch.cuda.is_available():
                self._llm.sleep(level=2)  # frees weights and cache: the next call loads new weights
        generations = [_generation(output.outputs[0]) for output in outputs]
        if advance is not None:
            advance(len(generations))
        return generations

    def _load(self, model: PreTrainedModel, folder: Path) -> None:
        """Load the weights in a folder into vLLM."""
        wanted = (_shape(model), model.dtype)
        # Unset until all weights are loaded: a reload that fails halfway leaves a mixture, and then vLLM must restart.
        running, self._running = self._running, None
        if self._llm is not None and running == wanted:
            on_gpu = torch.cuda.is_available()
            if on_gpu:
                torch.cuda.empty_cache()  # frees what the trainer's allocator holds but does not use
                self._llm.wake_up(tags=["weights"])
            self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
            if on_gpu:
                self._llm.wake_up(tags=["kv_cache"])
            # The cache of earlier prompts was computed with the old weights.
            self._llm.reset_prefix_cache()
            self._running = wanted
            return
        self._llm = None
        gc.collect()
        options: dict[str, Any] = {}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            free, total = torch.cuda.mem_get_info()
            options = {"gpu_memory_utilization": _SHARE_OF_FREE_MEMORY * free / total, "enable_sleep_mode": True}
        self._llm = self._vllm.LLM(
            model=str(folder),
            dtype=str(model.dtype).removeprefix("torch."),  # "auto" would turn float32 into float16
            generation_config="vllm",  # ignore the folder's generation_config.json, which would change the sampling
            logprobs_mode="raw_logprobs",  # the model's own, before bias, temperature, top-k and top-p
            enable_prefix_caching=True,
            **options,
        )
        self._running = wanted

    def _parameters(self, sampling: Sampling, seed: int) -> Any:
        return self._vllm.SamplingParams(
            n=1,
            seed=seed & SEED_MASK,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or 0,  # 0: all
            logit_bias=dict(sampling.logit_bias) or None,
            stop=list(sampling.stop) or None,
            stop_token_ids=list(sampling.stop_tokens) or None,
            ignore_eos=True,  # only the requested stops end a response
            logprobs=0,  # only the sampled token's
            detokenize=bool(sampling.stop),
        )


def _generation(completion: Any) -> Generation:
    if completion.finish_reason not in ("stop", "length"):
        raise HeedfulError(
            "vLLM gave up a request",
            expected="finish_reason stop or length",
            got=repr(completion.finish_reason),
            next_step='look at the log of vLLM, or set engine = "heedful"',
        )
    tokens = [int(token) for token in completion.token_ids]
    logprobs = [float(place[token].logprob) for place, token in zip(completion.logprobs, tokens, strict=True)]
    stop = completion.stop_reason if isinstance(completion.stop_reason, str) else None
    return Generation(tokens, logprobs, completion.finish_reason == "stop", stop)


def _shape(model: PreTrainedModel) -> str:
    """The settings that vLLM cannot change by loading other weights."""
    settings = {name: value for name, value in model.config.to_dict().items() if not name.startswith("_")}
    return repr(sorted(settings.items(), key=lambda item: item[0]))


@functools.cache
def _only_engine(vllm: Any) -> VLLMEngine:
    """One engine for the whole process: two would not fit on a GPU."""
    return VLLMEngine(vllm)


def _vllm() -> Any:
    try:
        return importlib.import_module("vllm")
    except ImportError as error:
        raise ConfigError(
            'engine = "vllm" needs vLLM, which is not installed',
            expected="the package vllm",
            next_step="pip install 'heedful[vllm]' in an environment of its own (it brings its own torch), "
            'or set engine = "heedful"',
        ) from error
