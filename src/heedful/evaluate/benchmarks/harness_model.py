"""Heedful's models for lm-evaluation-harness: its tasks run over packed rows and our engine.

::

    import lm_eval
    from heedful.evaluate.benchmarks.harness_model import harness_model

    lm_eval.simple_evaluate(model=harness_model("runs/sft-1/model"), tasks=["arc_easy"])

Log-probabilities are those of the harness's own ``HFLM`` (tests compare them), with these decisions spelled out:

- *Beginning*: a text begins with what its tokenizer puts in front of it (Llama's begin-of-text token; nothing for GPT-2). An
  empty context is the begin-of-text token, or end-of-text if there is none.
- *Too long*: a context that does not fit loses its beginning; ``num_cut`` counts these requests.
- *Stops*: a response ends before the first of the task's stop strings, at any end token, or at its limit of tokens.

Needs ``pip install 'heedful[benchmarks]'``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from rich.console import Console
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.errors import ConfigError
from heedful.evaluate.benchmarks.asking_models import generated
from heedful.functional.logprobs import token_logprobs
from heedful.model.context_window import context_window
from heedful.model.end_tokens import end_tokens, spoken_tokens
from heedful.model.engine.sampling import Sampling, request_seeds
from heedful.model.engine.scheduler import Engine
from heedful.model.inference import policy_for_inference
from heedful.model.layouts import PackedBatch, pack, packed_hidden
from heedful.model.loading import unembedding
from heedful.model.precision import Precision
from heedful.model.template import decode_after, encode
from heedful.progress import progress_line

Request = tuple[tuple[str, str], list[int], list[int]]
"""Context and continuation as texts, and as tokens."""

_ROWS_OF_LOGITS = 512
_DEFAULT_MAX_TOKENS = 256
_NO_WINDOW = 2**20


def harness_model(
    folder: str | Path, *, precision: Precision = "bfloat16", batch_size: int = 64, seed: int = 0
) -> HarnessModel:
    """Load a model from a folder for ``lm_eval.simple_evaluate``. Raises MissingError, ModelError."""
    return HarnessModel(*policy_for_inference(folder, precision), batch_size=batch_size, seed=seed)


class HarnessModel(TemplateLM):
    """A causal language model that answers the harness's three kinds of requests."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 64,
        seed: int = 0,
        console: Console | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.num_cut = 0
        """Number of requests whose context was too long and lost its beginning."""
        self._seed, self._console = seed, console
        self._engine: Engine | None = None

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token."""
        return cast(int, self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without context."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else cast(int, begin)

    @property
    def max_length(self) -> int:
        """Tokens of the context window."""
        return context_window(self.model) or _NO_WINDOW

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer's name, for the harness's cache."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render the chat in the tokenizer's own template. Raises ConfigError if it has none."""
        if not getattr(self.tokenizer, "chat_template", None):
            raise ConfigError(
                "this model has no chat template",
                expected="chat_template in the model's folder",
                got="none",
                next_step="leave out apply_chat_template",
            )
        return cast(
            str,
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            ),
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Encode a text that begins a sequence. In a rendered chat, special tokens are recognised and none is added."""
        begin = getattr(self.tokenizer, "bos_token", None)
        if begin and string.startswith(begin):
            add_special_tokens = False
        ids = self.tokenizer(string, add_special_tokens=False, verbose=False)["input_ids"]
        first = [] if add_special_tokens is False else encode(self.tokenizer, [""])[0]
        return [*first, *cast(list[int], ids)]

    # ------------------------------------------------------------------------------------------------ log-probabilities

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return each continuation's log-probability after its context, and whether greedy decoding gives it."""
        rows: list[Request] = []
        for request in requests:
            context, continuation = cast(tuple[str, str], request.args)
            if context:
                rows.append(((context, continuation), *self._encode_pair(context, continuation)))
            else:
                tokens = self.tok_encode(continuation, add_special_tokens=False)
                rows.append(((context, continuation), [self.prefix_token_id], tokens))
        return self._loglikelihood_tokens(rows, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        found: list[tuple[float, bool]] = []
        quiet = Console(quiet=True) if disable_tqdm else self._console
        with progress_line("log-probabilities", len(requests), unit="requests", console=quiet) as progress:
            for first in range(0, len(requests), self.batch_size):
                part = requests[first : first + self.batch_size]
                results = self._batch_logprobs([self._fitted(context, after) for _, context, after in part])
                for (texts, _, _), result in zip(part, results, strict=True):
                    self.cache_hook.add_partial("loglikelihood", texts, result)
                found += results
                progress.advance(len(part))
        return found

    def _fitted(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """Fit both into the context window. The continuation's last token is only predicted and takes no room."""
        excess = len(context) + len(continuation) - (self.max_length + 1)
        if excess <= 0:
            return context, continuation
        self.num_cut += 1
        kept = [*context, *continuation][excess:]
        split = max(1, len(kept) - len(continuation))
        return kept[:split], kept[split:]

    @torch.no_grad()
    def _batch_logprobs(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        filled = [place for place, (_, after) in enumerate(pairs) if after]
        found: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)
        if not filled:
            return found
        batch = pack([pairs[place][0] for place in filled], [pairs[place][1] for place in filled])
        # The last token of a sequence that fills the window is only predicted. It is in the row anyway, but nothing attends to
        # it, so any position that the model has will do.
        batch = replace(batch, positions=batch.positions.clamp(max=self.max_length - 1)).to(self.model.device)
        logprobs, greedy = _logprobs_and_greedy(self.model, batch)
        sums = torch.zeros(batch.num_sequences, dtype=torch.float64, device=logprobs.device)
        sums.index_add_(0, batch.row, logprobs.double())
        wrong = torch.zeros(batch.num_sequences, dtype=torch.int64, device=logprobs.device)
        wrong.index_add_(0, batch.row, (~greedy).long())
        for place, total, misses in zip(filled, sums.tolist(), wrong.tolist(), strict=True):
            found[place] = (total, misses == 0)
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return log-probabilities of whole texts. Long ones are cut into windows, with each token predicted once."""
        found: list[float] = []
        for request in requests:
            (text,) = cast(tuple[str], request.args)
            tokens = self.tok_encode(text, add_special_tokens=False)
            windows = get_rolling_token_windows(
                token_list=tokens, prefix_token=self.prefix_token_id, max_seq_len=self.max_length, context_len=1
            )
            pairs: list[Request] = [(("", text), *make_disjoint_window(window)) for window in windows]
            total = sum(result for result, _ in self._loglikelihood_tokens(pairs, disable_tqdm=True))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
            found.append(total)
        return found

    # ------------------------------------------------------------------------------------------------ responses

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate the response to each context, cut before the first stop string."""
        if self._engine is None:
            self._engine = Engine(self.model, slots=self.batch_size, tokenizer=self.tokenizer)
        found: list[str] = []
        quiet = Console(quiet=True) if disable_tqdm else self._console
        with progress_line("responses", len(requests), unit="requests", console=quiet) as progress:
            for first in range(0, len(requests), self.batch_size):
                part = [cast(tuple[str, dict[str, Any]], request.args) for request in requests[first : first + self.batch_size]]
                found += self._batch_responses(self._engine, part, first)
                progress.advance(len(part))
        return found

    def _batch_responses(self, engine: Engine, part: Sequence[tuple[str, dict[str, Any]]], first: int) -> list[str]:
        ends = end_tokens(self.model, self.tokenizer)
        samplings = [sampling_of(options, ends) for _, options in part]
        prompts: list[list[int]] = []
        for (context, _), sampling in zip(part, samplings, strict=True):
            tokens = self.tok_encode(context) or [self.prefix_token_id]
            room = self.max_length - sampling.max_tokens
            if room < 1:
                raise ConfigError(
                    "the task's limit of new tokens fills the context window",
                    expected=f"fewer than {self.max_length}",
                    got=f"{sampling.max_tokens}",
                    next_step="give a smaller max_gen_toks",
                )
            self.num_cut += len(tokens) > room
            prompts.append(tokens[-room:])
        seeds = [request_seeds(self._seed, stream=f"harness {first + i}", count=1)[0] for i in range(len(part))]
        generations = generated(engine, prompts, samplings, seeds)
        texts = decode_after(self.tokenizer, prompts, [spoken_tokens(one.tokens, ends) for one in generations])
        responses: list[str] = []
        for (context, options), sampling, text in zip(part, samplings, texts, strict=True):
            for stop in sampling.stop:
                text = text.split(stop)[0]
            self.cache_hook.add_partial("generate_until", (context, options), text)
            responses.append(text)
        return responses


def sampling_of(options: dict[str, Any], ends: tuple[int, ...]) -> Sampling:
    """Translate the harness's options for generation into ours. Raises ConfigError for an option that we do not have."""
    known = {"until", "max_gen_toks", "max_new_tokens", "do_sample", "temperature", "top_p", "top_k"}
    if unknown := sorted(options.keys() - known):
        raise ConfigError(
            "the task asks for an option of generation that Heedful does not have",
            expected=", ".join(sorted(known)),
            got=", ".join(unknown),
        )
    until = options.get("until") or []
    stops = tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop)
    temperature = float(options.get("temperature", 1.0 if options.get("do_sample") else 0.0))
    if not options.get("do_sample", temperature > 0):
        temperature = 0.0
    return Sampling(
        max_tokens=int(options.get("max_gen_toks", options.get("max_new_tokens", _DEFAULT_MAX_TOKENS))),
        temperature=temperature,
        top_p=float(options.get("top_p", 1.0)) if temperature else 1.0,
        top_k=int(options["top_k"]) if temperature and options.get("top_k") else None,
        stop_tokens=ends,
        stop=stops,
    )


def _logprobs_and_greedy(model: PreTrainedModel, batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """Return each target's log-probability, and whether it is the most likely token."""
    hidden = packed_hidden(model, batch, batch.predict_from)
    weight = unembedding(model)
    logprobs: list[Tensor] = []
    greedy: list[Tensor] = []
    for part, targets in _chunks(hidden, batch.targets):
        logits = part @ weight.to(part.dtype).T
        logprobs.append(token_logprobs(logits, targets))
        greedy.append(logits.argmax(-1) == targets)
    return torch.cat(logprobs), torch.cat(greedy)


def _chunks(hidden: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    starts: Iterable[int] = range(0, len(targets), _ROWS_OF_LOGITS)
    return ((hidden[start : start + _ROWS_OF_LOGITS], targets[start : start + _ROWS_OF_LOGITS]) for start in starts)
