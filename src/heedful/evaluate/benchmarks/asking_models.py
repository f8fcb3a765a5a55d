"""Asks models benchmark items: log-probabilities of choices, or responses sampled at temperature 0 up to a newline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.conversation import Turn
from heedful.errors import DataError
from heedful.evaluate.benchmarks.task_table import Item, Task
from heedful.model.context_window import context_window
from heedful.model.end_tokens import end_tokens, spoken_tokens
from heedful.model.engine.sampling import Sampling, request_seeds
from heedful.model.engine.scheduler import Engine, Generation
from heedful.model.layouts import pack_shared
from heedful.model.readout import target_logprobs
from heedful.model.template import Template, decode_after, encode, encode_after, prompt_tokens, response_tokens
from heedful.records import Prompt

_TOKENS_PER_ROW = 16_384


@dataclass(frozen=True, slots=True)
class Asked:
    """A model to ask, with its tokenizer and settings."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    engine: Engine
    template: Template = "plain"
    seed: int = 0


def asked(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: Template = "plain",
    slots: int = 64,
    seed: int = 0,
) -> Asked:
    """Prepare a model to be asked. ``slots``: how many responses are sampled at the same time."""
    return Asked(model, tokenizer, Engine(model, slots=slots, tokenizer=tokenizer), template, seed)


def answers(subject: Asked, task: Task, items: Sequence[Item]) -> list[dict[str, Any]]:
    """Return the model's answer to each item, in order: log-probabilities of choices, or a response's text."""
    if task.kind == "sample":
        return sampled(subject, items, max_tokens=task.max_tokens)
    return choice_logprobs(subject, items)


# ---------------------------------------------------------------------------------------------------- choices


def choice_logprobs(subject: Asked, items: Sequence[Item]) -> list[dict[str, Any]]:
    """Return each item's choices: total log-probabilities in nats (``logprobs``) and numbers of tokens (``lengths``).

    ``cut`` counts tokens left out at the beginning of prompts that do not fit the context window. A prompt that several choices
    share is computed once.
    """
    groups: list[tuple[list[int], list[list[int]]]] = []
    """Prompt, and the choices after it. An item has one, or several if its choices follow different prompts."""
    places_of_item: list[list[tuple[int, int]]] = []
    """For each choice: its group, and its place there."""
    cuts: list[int] = []
    for item, pairs in zip(items, _encoded_pairs(subject, items), strict=True):
        longest = max(len(choice) for _, choice in pairs)
        cut = 0
        own: dict[tuple[int, ...], int] = {}
        places: list[tuple[int, int]] = []
        for prompt, choice in pairs:
            shortened, less = _fitted(subject, prompt, longest, item)
            cut = max(cut, less)
            place = own.setdefault(tuple(shortened), len(groups))
            if place == len(groups):
                groups.append((shortened, []))
            places.append((place, len(groups[place][1])))
            groups[place][1].append(choice)
        places_of_item.append(places)
        cuts.append(cut)
    totals = _totals(subject.model, groups)
    return [
        {
            "id": item.id,
            "logprobs": [totals[group][place] for group, place in places],
            "lengths": [len(groups[group][1][place]) for group, place in places],
            "cut": cut,
        }
        for item, places, cut in zip(items, places_of_item, cuts, strict=True)
    ]


@torch.no_grad()
def _totals(model: PreTrainedModel, groups: Sequence[tuple[list[int], list[list[int]]]]) -> list[list[float]]:
    """Return the total log-probability of each choice after its prompt.

    The common beginning of all prompts (few-shot examples) is computed once for each row of tokens. This pays only if it is
    longer than the extra work: the rest of each prompt is then computed for each of its choices.
    """
    beginning = _common_beginning([prompt for prompt, _ in groups])
    rests = sum((len(prompt) - beginning) * (len(choices) - 1) for prompt, choices in groups)
    shares = len(groups) > 1 and beginning * (len(groups) - 1) > rests
    found: list[list[float]] = []
    for part in _rows_of(groups, beginning if shares else 0):
        if shares:
            heads = [part[0][0][:beginning]]
            tails = [[[*prompt[beginning:], *choice] for prompt, choices in part for choice in choices]]
            skipped = [len(prompt) - beginning for prompt, choices in part for _ in choices]
        else:
            heads, tails = [prompt for prompt, _ in part], [choices for _, choices in part]
            skipped = [0] * sum(map(len, tails))
        batch = pack_shared(heads, tails)
        kept = batch.column >= torch.tensor(skipped)[batch.row]
        batch = replace(
            batch,
            predict_from=batch.predict_from[kept],
            targets=batch.targets[kept],
            row=batch.row[kept],
            column=batch.column[kept],
        ).to(model.device)
        logprobs = target_logprobs(model, batch).double()
        sums = torch.zeros(batch.num_sequences, dtype=torch.float64, device=logprobs.device)
        sums.index_add_(0, batch.row, logprobs)
        # Six decimals: more would show how the sums were rounded.
        values, place = [round(value, 6) for value in sums.tolist()], 0
        for _, choices in part:
            found.append(values[place : place + len(choices)])
            place += len(choices)
    return found


def _common_beginning(prompts: Sequence[list[int]]) -> int:
    """Return how many leading tokens all prompts share, leaving at least one token of the shortest prompt."""
    first, last = min(prompts), max(prompts)
    shortest = min(map(len, prompts))
    same = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), shortest)
    return min(same, shortest - 1)


def _rows_of(
    groups: Sequence[tuple[list[int], list[list[int]]]], beginning: int
) -> Iterator[list[tuple[list[int], list[list[int]]]]]:
    """Yield groups in order, as many together as one row holds. ``beginning``: number of leading tokens computed once."""
    part: list[tuple[list[int], list[list[int]]]] = []
    size = beginning
    for prompt, choices in groups:
        times = len(choices) if beginning else 1
        more = (len(prompt) - beginning) * times + sum(map(len, choices))
        if part and size + more > _TOKENS_PER_ROW:
            yield part
            part, size = [], beginning
        part.append((prompt, choices))
        size += more
    if part:
        yield part


def _encoded_pairs(subject: Asked, items: Sequence[Item]) -> list[list[tuple[list[int], list[int]]]]:
    """Encode each item's prompts and choices.

    An empty prompt becomes the tokenizer's begin-of-text token, or else end-of-text, as in lm-evaluation-harness. Under a chat
    template a choice is an answer of the assistant, without a space before it.
    """
    pairs = [pair for item in items for pair in item.pairs]
    in_chat = [subject.template != "plain" and bool(before.strip()) for before, _ in pairs]
    plain = iter(_plain_pairs(subject.tokenizer, [pair for pair, chat in zip(pairs, in_chat, strict=True) if not chat]))
    chats = iter(_chat_pairs(subject, [pair for pair, chat in zip(pairs, in_chat, strict=True) if chat]))
    rows = iter([next(chats) if chat else next(plain) for chat in in_chat])
    return [[next(rows) for _ in item.pairs] for item in items]


def _plain_pairs(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    befores, choices = [before for before, _ in pairs], [choice for _, choice in pairs]
    heads, tails = encode(tokenizer, befores), encode_after(tokenizer, befores, choices)
    return [(head or _beginning(tokenizer), tail) for head, tail in zip(heads, tails, strict=True)]


def _chat_pairs(subject: Asked, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    if not pairs:
        return []
    prompts = [_prompt(before) for before, _ in pairs]
    tails = response_tokens(subject.tokenizer, prompts, [choice.lstrip() for _, choice in pairs], subject.template)
    return list(zip(prompt_tokens(subject.tokenizer, prompts, subject.template), tails, strict=True))


def _prompt(text: str) -> Prompt:
    return Prompt(id="benchmark", turns=(Turn("user", text),))


def _beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    assert isinstance(first, int)
    return [first]


def _fitted(subject: Asked, prompt: list[int], num_after: int, item: Item) -> tuple[list[int], int]:
    """Cut a prompt so that ``num_after`` tokens fit after it; also return how many tokens it lost at its beginning.

    Tokens that the tokenizer puts in front of every text stay. Raises DataError if there is no room for any of the prompt.
    """
    window = context_window(subject.model)
    excess = 0 if window is None else len(prompt) + num_after - window
    if excess <= 0:
        return prompt, 0
    (first,) = encode(subject.tokenizer, [""])
    first = first if prompt[: len(first)] == first else []
    if excess >= len(prompt) - len(first):
        raise DataError(
            f"the item {item.id!r} does not fit the model's context window",
            expected=f"at most {window} tokens",
            got=f"{num_after} tokens without its prompt",
            next_step="leave this task out, or use a model with a longer context window",
        )
    return [*first, *prompt[len(first) + excess :]], excess


# ---------------------------------------------------------------------------------------------------- responses


def sampled(subject: Asked, items: Sequence[Item], *, max_tokens: int) -> list[dict[str, Any]]:
    """Sample the model's response to each item at temperature 0, cut at the first newline (SPEC 4.2).

    ``finished``: it ended by itself or at a newline. ``cut``: tokens left out at the beginning of a prompt that does not fit.
    """
    rows = prompt_tokens(subject.tokenizer, [_prompt(item.prompt) for item in items], subject.template)
    rows = [row or _beginning(subject.tokenizer) for row in rows]
    fitted = [_fitted(subject, row, max_tokens, item) for row, item in zip(rows, items, strict=True)]
    ends = end_tokens(subject.model, subject.tokenizer, subject.template)
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0, stop_tokens=ends, stop=("\n",))
    prompts = [row for row, _ in fitted]
    seeds = [request_seeds(subject.seed, stream=f"benchmark {item.id}", count=1)[0] for item in items]
    generations = generated(subject.engine, prompts, sampling, seeds)
    spoken = [spoken_tokens(generation.tokens, ends) for generation in generations]
    texts = decode_after(subject.tokenizer, prompts, spoken, subject.template)
    return [
        {
            "id": item.id,
            "response": text.split("\n")[0].strip(),
            "finished": generation.finished,
            "cut": cut,
        }
        for item, text, generation, (_, cut) in zip(items, texts, generations, fitted, strict=True)
    ]


def generated(
    engine: Engine, prompts: Sequence[Sequence[int]], sampling: Sampling | Sequence[Sampling], seeds: Sequence[int]
) -> list[Generation]:
    """Generate one response to each prompt, in order. The engine is reused: a new one would copy the model's weights."""
    each = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
    place_of: dict[int, int] = {}
    # Prompts of similar length are decoded together, so that short ones do not carry a long cache.
    for place in sorted(range(len(prompts)), key=lambda place: len(prompts[place]), reverse=True):
        (number,) = engine.submit(prompts[place], each[place], [seeds[place]])
        place_of[number] = place
    found: dict[int, Generation] = {}
    while engine.num_unfinished:
        for step in engine.step():
            if step.generation is not None:
                found[place_of[step.number]] = step.generation
    return [found[place] for place in range(len(prompts))]
