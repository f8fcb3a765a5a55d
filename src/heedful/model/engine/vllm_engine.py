"""vLLM as another engine, called like :func:`heedful.model.generate`, for models that need its speed.

Each call sends the model's current weights: the first call starts vLLM, later calls make it reload the weights in place. So PPO
samples each batch from the policy that it trains. vLLM runs in its own process. The weights reach it through a file in main
memory (``/dev/shm``), or on disk if there is no room. Under ``torchrun`` each rank has its own vLLM and answers its part of the
prompts. Between calls vLLM sleeps, which leaves its GPU memory to the trainer.

Tested with vLLM 0.32 on CPUs (``tests/model/engine/test_real_vllm.py``), where it cannot sleep. Sleep mode is tested only with
a stand-in (``tests/vllm_stand_in.py``).
"""

from __future__ import annotations

import functools
import gc
import importlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.errors import ConfigError, HeedfulError
from heedful.model.engine.sampling import SEED_MASK, Sampling
from heedful.model.engine.scheduler import Generation, check_fits, generate
from heedful.model.lora import is_adapted, merged
from heedful.model.saving import save_model
from heedful.ranks.world import world

EngineName = Literal["heedful", "vllm"]
# vLLM takes this share of the GPU memory that is free when it starts. The rest is for what the trainer allocates meanwhile.
_SHARE_OF_FREE_MEMORY = 0.9
# On a CPU, vLLM would otherwise take nearly all main memory for its key-value cache.
_CPU_CACHE_BYTES = 2 * 2**30
_SHARED_MEMORY = Path("/dev/shm")
# vLLM sends no usage statistics and logs only errors, unless the user has set these variables.
_QUIET = {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
# torchrun's variables, which would make vLLM a rank of the training.
_OF_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_OF_TORCHRUN_BEGIN = ("GROUP_", "ROLE_", "TORCHELASTIC_")


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
    """The engine of this name. Raises ConfigError if vLLM is not installed."""
    if engine == "heedful":
        return generate
    return _only_engine(_vllm())


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
        Raises ValueError (another number of seeds, no tokenizer, penalties or top_logprobs), UserError (a prompt does not fit),
        StorageError (the weights cannot be written), HeedfulError (vLLM gave up a request).
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
        self._send(model, tokenizer)
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

    def _send(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Load the model's weights into the running vLLM, or start one."""
        model = merged(model) if is_adapted(model) else model
        wanted = (_shape(model), model.dtype)
        # Unset until all weights are loaded: a reload that fails halfway leaves a mixture, and then vLLM must restart.
        running, self._running = self._running, None
        with tempfile.TemporaryDirectory(prefix="heedful-vllm-", dir=_place_for(model)) as folder:
            if self._llm is not None and running == wanted:
                self._reload(model, Path(folder))
            else:
                self._start(model, tokenizer, Path(folder) / "model")
        self._running = wanted

    def _reload(self, model: PreTrainedModel, folder: Path) -> None:
        with _written_by_this_rank(model):
            model.save_pretrained(folder)
        on_gpu = torch.cuda.is_available()
        if on_gpu:
            torch.cuda.empty_cache()  # frees memory that the trainer's allocator holds but does not use
            self._llm.wake_up(tags=["weights"])
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        if on_gpu:
            self._llm.wake_up(tags=["kv_cache"])
        # The cache of earlier prompts was computed with the old weights.
        self._llm.reset_prefix_cache()

    def _start(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
        self._llm = None
        gc.collect()
        with _written_by_this_rank(model):
            save_model(model, tokenizer, folder)
        # Compiling takes a minute on a CPU and gains little there.
        options: dict[str, Any] = {"enforce_eager": True, "kv_cache_memory_bytes": _CPU_CACHE_BYTES}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            free, total = torch.cuda.mem_get_info()
            options = {"gpu_memory_utilization": _SHARE_OF_FREE_MEMORY * free / total, "enable_sleep_mode": True}
        with _environment_of_vllm():
            self._llm = self._vllm.LLM(
                model=str(folder),
                dtype=str(model.dtype).removeprefix("torch."),  # "auto" would turn float32 into float16
                max_model_len=-1,  # as much of the model's window as fits the cache
                generation_config="vllm",  # ignore the folder's generation_config.json, which would change the sampling
                logprobs_mode="raw_logprobs",  # the model's own, before bias, temperature, top-k and top-p
                enable_prefix_caching=True,
                use_tqdm_on_load=False,
                **options,
            )

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
            next_step='look at the vLLM log, or set engine = "heedful"',
        )
    tokens = [int(token) for token in completion.token_ids]
    logprobs = [float(place[token].logprob) for place, token in zip(completion.logprobs, tokens, strict=True)]
    stop = completion.stop_reason if isinstance(completion.stop_reason, str) else None
    return Generation(tokens, logprobs, completion.finish_reason == "stop", stop)


def _shape(model: PreTrainedModel) -> str:
    """The settings that vLLM cannot change by reloading weights, as one string."""
    set_by_saving = ("architectures", "dtype", "transformers_version")
    config = model.config.to_dict().items()
    settings = {name: value for name, value in config if not name.startswith("_") and name not in set_by_saving}
    return repr(sorted(settings.items(), key=lambda item: item[0]))


@functools.cache
def _only_engine(vllm: Any) -> VLLMEngine:
    """One engine for the whole process: two would not fit on a GPU."""
    return VLLMEngine(vllm)


def _place_for(model: PreTrainedModel) -> Path | None:
    """The folder for the weights that vLLM will read: in main memory if there is room, else None (the system's default)."""
    needed = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    try:
        free = shutil.disk_usage(_SHARED_MEMORY).free
    except OSError:
        return None
    return _SHARED_MEMORY if free > 1.1 * needed and os.access(_SHARED_MEMORY, os.W_OK) else None


@contextmanager
def _written_by_this_rank(model: PreTrainedModel) -> Iterator[None]:
    """Let this rank save the model, whichever rank it is; transformers 5 saves on rank 0 only."""
    vars(model)["should_save_on_this_rank"] = lambda is_main_process: is_main_process
    try:
        yield
    finally:
        del vars(model)["should_save_on_this_rank"]


@contextmanager
def _environment_of_vllm() -> Iterator[None]:
    """Give vLLM's process an environment without torchrun's variables, in which it sees only this rank's GPU."""
    hidden = [name for name in os.environ if name in _OF_TORCHRUN or name.startswith(_OF_TORCHRUN_BEGIN)]
    changes: dict[str, str | None] = dict.fromkeys(hidden)
    if world().size > 1 and torch.cuda.is_available():
        own, visible = torch.cuda.current_device(), os.environ.get("CUDA_VISIBLE_DEVICES")
        changes["CUDA_VISIBLE_DEVICES"] = visible.split(",")[own] if visible else str(own)
    before = {name: os.environ.get(name) for name in changes}
    _set_environment(changes)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _vllm() -> Any:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module("vllm")
    except ImportError as error:
        raise ConfigError(
            'engine = "vllm" needs vLLM, which is not installed',
            expected="the package vllm",
            next_step="pip install 'heedful[vllm]' in an environment of its own (it brings its own torch), "
            'or set engine = "heedful"',
        ) from error
