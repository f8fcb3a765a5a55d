"""Answer prompts with a model, and score the answers with a reward model: records in, records out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.errors import DataError
from heedful.model.chat_template import Template
from heedful.model.context_window import context_window
from heedful.model.encoding import encode_prompts, encode_response
from heedful.model.end_tokens import end_tokens, response_end, spoken_tokens
from heedful.model.engine.sampling import Sampling, request_seeds
from heedful.model.engine.vllm_engine import EngineName, generator
from heedful.model.layouts import pack
from heedful.model.readout import score, target_logprobs
from heedful.model.template import decode_after, encode, prompt_tokens, response_tokens
from heedful.progress import progress_line
from heedful.ranks.batch_shares import own_indices, own_microbatches
from heedful.ranks.collectives import gather_in_order
from heedful.ranks.rank_zero import barrier_without_timeout
from heedful.ranks.world import world
from heedful.records import Prompt, Response

GENERATION_BATCH = 1_024


class Limits(Protocol):
    """How long prompts and responses may be, in tokens; each training configuration has both."""

    @property
    def max_prompt_tokens(self) -> int: ...
    @property
    def max_response_tokens(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Answerer:
    """A model that answers prompts within limits."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    limits: Limits
    engine: EngineName = "heedful"
    template: Template = "plain"

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        name: str,
        ids: Sequence[str],
        temperature: float,
        seed: int,
        texts: Sequence[str] | None = None,
        console: Console | None = None,
    ) -> list[Response]:
        """One response to each prompt, in order.

        name: the model's name in the responses. ids: the responses' ids; a response's random numbers depend only on ``seed``
        and its id. texts: the model continues these instead of the prompts in the template (for example, prompts with few-shot
        examples in front). A text may fill the context window, minus room for the response.
        Under ``torchrun`` each rank answers some of the prompts, and every rank returns all responses.
        Raises DataError if a prompt is over the limit.
        """
        limit: int | None = self.limits.max_prompt_tokens
        if texts is None:
            tokens = prompt_tokens(self.tokenizer, prompts, self.template)
        else:
            tokens = encode(self.tokenizer, texts)
            window = context_window(self.model)
            limit = None if window is None else window - self.limits.max_response_tokens
        for prompt, row in zip(prompts, tokens, strict=True):
            if limit is not None and len(row) > limit:
                raise DataError(
                    f"the prompt {prompt.id!r} is over the limit",
                    expected=f"at most {limit} tokens",
                    got=f"{len(row)} tokens",
                    next_step="shorten it, or raise max_prompt_tokens in heedful.toml"
                    if texts is None
                    else "lower max_prompt_tokens or max_response_tokens in heedful.toml: the context window holds no more",
                )
        ends = end_tokens(self.model, self.tokenizer, self.template)
        sampling = Sampling(max_tokens=self.limits.max_response_tokens, temperature=temperature, stop_tokens=ends)
        seeds = [request_seeds(seed, stream=f"answer {identifier}", count=1)[0] for identifier in ids]
        mine = own_indices([len(row) for row in tokens])
        unit = "prompts" if world().size == 1 else "prompts of rank 0's part"
        with progress_line(f"{name} answers", len(mine), unit=unit, console=console) as progress:
            own = generator(self.engine)(
                self.model,
                [tokens[i] for i in mine],
                sampling,
                [seeds[i] for i in mine],
                batch_size=GENERATION_BATCH,
                advance=progress.advance,
                tokenizer=self.tokenizer,
            )
        barrier_without_timeout()  # a rank may take longer than the timeout of a collective
        generations = gather_in_order(zip(mine, own, strict=True))
        spoken = [spoken_tokens(generation.tokens, ends) for generation in generations]
        template = self.template if texts is None else "plain"
        decoded = decode_after(self.tokenizer, tokens, spoken, template)
        return [
            Response(id=identifier, prompt_id=prompt.id, text=storable(text), model=name, finished=generation.finished)
            for identifier, prompt, text, generation in zip(ids, prompts, decoded, generations, strict=True)
        ]


def storable(text: str) -> str:
    """A model's text with U+FFFD in place of NUL, which a model can write but databases cannot store."""
    return text.replace("\x00", "\ufffd")


def score_responses(
    reward_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Mapping[str, Prompt],
    responses: Sequence[Response],
    *,
    max_response_tokens: int,
    template: Template = "plain",
    console: Console | None = None,
) -> dict[str, float]:
    """Reward of each response, by response id. Texts are tokenised as in the reward model's training.

    A response over the limit is cut there and scored at its last token, as in training; the console says how many there are.
    """
    answered = [prompts[response.prompt_id] for response in responses]
    end = response_end(tokenizer, template)
    texts = response_tokens(tokenizer, answered, [response.text for response in responses], template)
    encoded = [
        encode_response(ids, end=end, finished=response.finished, max_tokens=max_response_tokens)
        for ids, response in zip(texts, responses, strict=True)
    ]
    if console is not None and (over := sum(cut for _, cut in encoded)):
        console.print(
            f"{over:,} of {len(responses):,} responses are scored at token {max_response_tokens:,}: they are longer",
            highlight=False,
        )
    rewards = score(reward_model, prompt_tokens(tokenizer, answered, template), [row for row, _ in encoded])
    return {response.id: float(reward) for response, reward in zip(responses, rewards, strict=True)}


@torch.no_grad()
def logprobs_of_responses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Mapping[str, Prompt],
    responses: Sequence[Response],
    *,
    max_response_tokens: int,
    template: Template = "plain",
) -> list[float]:
    """Log-probability of each response in nats, summed over its tokens. Texts are tokenised as in :func:`score_responses`."""
    answered = [prompts[response.prompt_id] for response in responses]
    end = response_end(tokenizer, template)
    texts = response_tokens(tokenizer, answered, [response.text for response in responses], template)
    rows = [
        encode_response(ids, end=end, finished=response.finished, max_tokens=max_response_tokens)[0]
        for ids, response in zip(texts, responses, strict=True)
    ]
    before = prompt_tokens(tokenizer, answered, template)
    found: list[tuple[int, float]] = []
    for members, factor in own_microbatches([len(p) + len(r) for p, r in zip(before, rows, strict=True)], tokens=16_384):
        batch = pack([before[i] for i in members], [rows[i] for i in members]).to(model.device)
        summed = batch.pad(target_logprobs(model, batch)).sum(dim=1)
        if factor:
            found += [(i, float(value)) for i, value in zip(members, summed, strict=True)]
    return gather_in_order(found)


def mean_reward(
    reward_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Mapping[str, Prompt],
    responses: Sequence[Response],
    *,
    max_response_tokens: int,
    template: Template = "plain",
    console: Console | None = None,
) -> float:
    """Mean reward of the responses. It is used to compare checkpoints, few-shot prefixes and the policies of a sweep."""
    rewards = score_responses(
        reward_model,
        tokenizer,
        prompts,
        responses,
        max_response_tokens=max_response_tokens,
        template=template,
        console=console,
    )
    return float(np.mean(list(rewards.values())))


def prompts_within(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], limit: int, console: Console, template: Template = "plain"
) -> list[Prompt]:
    """The prompts that fit; longer ones are left out, and the console says how many (SPEC 1.2)."""
    kept, _, counts = encode_prompts(tokenizer, prompts, max_tokens=limit, template=template)
    if counts.prompt_too_long:
        console.print(f"{counts.prompt_too_long:,} prompts over {limit:,} tokens are left out", highlight=False)
    return kept
