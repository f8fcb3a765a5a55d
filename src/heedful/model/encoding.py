"""Turn records into token ids, and count everything that was cut or left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from heedful.conversation import Turn
from heedful.errors import DataError
from heedful.model.chat_template import Template, special_tokens
from heedful.model.end_tokens import response_end
from heedful.model.template import prompt_tokens, response_tokens
from heedful.records import Demonstration, Phase, Prompt, Ranking, Response


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the response to it, as token ids. The response ends with its end token unless it was cut."""

    prompt: list[int]
    response: list[int]
    weight: float = field(default=1.0, repr=False)
    """How much it counts in the loss. See :func:`unequal_weights`."""


@dataclass(frozen=True, slots=True)
class RankedPrompt:
    """A prompt, its responses, and each labeler's ranks for them. All comparisons of a prompt are one batch element.

    ``ranks[j][i]`` is labeler j's rank for response i: 1 is best, equal ranks are a tie, 0 means that j did not rank it.
    """

    prompt_id: str
    response_ids: tuple[str, ...]
    prompt: list[int]
    responses: list[list[int]]
    labelers: tuple[str, ...]
    ranks: tuple[tuple[int, ...], ...]
    weight: float = field(default=1.0, repr=False)
    """How much all its comparisons together count in the loss. See :func:`unequal_weights`."""


def unequal_weights(items: Sequence[Example | RankedPrompt]) -> dict[str, list[float]]:
    """The weights as an input of a run, empty if all are 1: checkpoints from before there were weights stay good."""
    weights = [item.weight for item in items]
    return {} if all(weight == 1 for weight in weights) else {"weights": weights}


@dataclass(slots=True)
class Counts:
    """What happened to the records of one kind. The counts are printed and saved with the run."""

    used: int = 0
    prompt_too_long: int = 0
    response_cut: int = 0
    empty_response: int = 0
    no_comparison: int = 0
    special_tokens_spelt: int = 0

    def __str__(self) -> str:
        return f"{self.used:,} used{self.left_out}"

    @property
    def left_out(self) -> str:
        """What was left out, cut or without effect, as text to put after the number used; empty if nothing was."""
        words = {
            "prompt_too_long": "left out: prompt over the limit",
            "response_cut": "cut at the response limit",
            "empty_response": "left out: empty response",
            "no_comparison": "without a comparison (K = 1 or all tied): no effect",
            "special_tokens_spelt": "spell a special token, which is kept as text",
        }
        return "".join(f"; {getattr(self, name):,} {text}" for name, text in words.items() if getattr(self, name))


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], *, max_tokens: int, template: Template = "plain"
) -> tuple[list[Prompt], list[list[int]], Counts]:
    """The prompts that fit, with their tokens. Longer ones are left out and counted (SPEC 1.2)."""
    counts = Counts()
    special = special_tokens(tokenizer)
    kept: list[Prompt] = []
    tokens: list[list[int]] = []
    for prompt, ids in zip(prompts, prompt_tokens(tokenizer, prompts, template), strict=True):
        if len(ids) > max_tokens:
            counts.prompt_too_long += 1
            continue
        kept.append(prompt)
        tokens.append(ids)
        counts.special_tokens_spelt += _spelt(special, prompt.text)
    counts.used = len(kept)
    return kept, tokens, counts


def _spelt(special: set[str], *texts: str) -> bool:
    return any(token in text for token in special for text in texts)


def rendered_example(tokenizer: PreTrainedTokenizerBase, template: Template) -> tuple[str, str]:
    """A prompt and a response as the model reads them, special tokens included."""
    prompt = Prompt(id="example", turns=(Turn("user", "Name a river.\n"),))
    (before,), (after,) = (
        prompt_tokens(tokenizer, [prompt], template),
        response_tokens(tokenizer, [prompt], ["The Rhine."], template),
    )
    start, whole = tokenizer.decode(before), tokenizer.decode([*before, *after, response_end(tokenizer, template)])
    return str(start), str(whole)[len(str(start)) :]


def encode_response(ids: list[int], *, end: int, finished: bool, max_tokens: int) -> tuple[list[int], bool]:
    """A response's tokens, with the end token if it finished and fits; and whether it was cut.

    An unfinished empty response gets the end token too. Otherwise it would have no token to score.
    """
    if len(ids) + finished > max_tokens:
        return ids[:max_tokens], True
    return [*ids, end] if finished or not ids else list(ids), False


def encode_demonstrations(
    tokenizer: PreTrainedTokenizerBase,
    prompts: dict[str, Prompt],
    demonstrations: Sequence[Demonstration],
    *,
    max_prompt_tokens: int,
    max_response_tokens: int,
    template: Template = "plain",
    may_be_empty: bool = False,
) -> tuple[list[Example], Counts]:
    """Demonstrations as examples. Those that are too long or empty are left out and counted (empty ones would teach silence).

    Raises DataError if none is left, unless ``may_be_empty``.
    """
    counts = Counts()
    special = special_tokens(tokenizer)
    end = response_end(tokenizer, template)
    examples: list[Example] = []
    answered = [prompts[d.prompt_id] for d in demonstrations]
    prompt_ids = prompt_tokens(tokenizer, answered, template)
    response_ids = response_tokens(tokenizer, answered, [d.text for d in demonstrations], template)
    for demonstration, prompt, response in zip(demonstrations, prompt_ids, response_ids, strict=True):
        if len(prompt) > max_prompt_tokens:
            counts.prompt_too_long += 1
        elif not response:
            counts.empty_response += 1
        else:
            tokens, cut = encode_response(response, end=end, finished=True, max_tokens=max_response_tokens)
            counts.response_cut += cut
            examples.append(Example(prompt, tokens))
            counts.special_tokens_spelt += _spelt(special, prompts[demonstration.prompt_id].text, demonstration.text)
    counts.used = len(examples)
    if not examples and not may_be_empty:
        raise DataError("no demonstration can be used", expected="at least one", got=str(counts))
    return examples, counts


def encode_rankings(
    tokenizer: PreTrainedTokenizerBase,
    prompts: dict[str, Prompt],
    responses: dict[str, Response],
    rankings: Sequence[Ranking],
    *,
    max_prompt_tokens: int,
    max_response_tokens: int,
    template: Template = "plain",
    phases: Sequence[Phase] = ("training",),
    with_ties: bool = False,
    may_be_empty: bool = False,
) -> tuple[list[RankedPrompt], Counts]:
    """Rankings as token ids, grouped by prompt. A response that several labelers ranked is there only once (SPEC 3.3).

    Rankings with K = 1 or only ties contain no comparison: they are counted and left out. ``with_ties`` keeps the latter.
    phases: the allowed phases of rankings and responses. Only an evaluation of the reward model may name others besides
    training, because rankings made for evaluation or screening must not be trained on.
    Raises DataError if a ranking or a response has another phase, or if no comparison is left (unless ``may_be_empty``).
    """
    for kind, records in (("ranking", rankings), ("response", [responses[i] for r in rankings for i in r.response_ids])):
        _refuse_other_phases(kind, records, phases)
    counts = Counts()
    special = special_tokens(tokenizer)
    end = response_end(tokenizer, template)
    used = [r for r in rankings if len(r.ranks if with_ties else set(r.ranks)) > 1]
    counts.no_comparison = len(rankings) - len(used)
    of_prompt: dict[str, list[Ranking]] = {}
    for ranking in used:
        of_prompt.setdefault(ranking.prompt_id, []).append(ranking)
    prompt_ids = prompt_tokens(tokenizer, [prompts[name] for name in of_prompt], template)
    names = list(dict.fromkeys(name for ranking in used for name in ranking.response_ids))
    answered = [prompts[responses[name].prompt_id] for name in names]
    response_ids = response_tokens(tokenizer, answered, [responses[name].text for name in names], template)
    tokens_of = dict(zip(names, response_ids, strict=True))
    ranked: list[RankedPrompt] = []
    for (prompt_id, group), prompt in zip(of_prompt.items(), prompt_ids, strict=True):
        if len(prompt) > max_prompt_tokens:
            counts.prompt_too_long += len(group)
            continue
        seen = tuple(dict.fromkeys(name for ranking in group for name in ranking.response_ids))
        rows: list[list[int]] = []
        for name in seen:
            tokens, cut = encode_response(
                tokens_of[name], end=end, finished=responses[name].finished, max_tokens=max_response_tokens
            )
            counts.response_cut += cut
            rows.append(tokens)
        given = [dict(zip(ranking.response_ids, ranking.ranks, strict=True)) for ranking in group]
        ranks = tuple([tuple([places.get(name, 0) for name in seen]) for places in given])
        ranked.append(RankedPrompt(prompt_id, seen, prompt, rows, tuple([r.labeler for r in group]), ranks))
        counts.used += len(group)
        texts = [prompts[prompt_id].text, *(responses[name].text for name in seen)]
        counts.special_tokens_spelt += len(group) * _spelt(special, *texts)
    if not ranked and not may_be_empty:
        raise DataError("no ranking can be used", expected="at least one comparison between two responses", got=str(counts))
    return ranked, counts


def _refuse_other_phases(kind: str, records: Sequence[Ranking | Response], phases: Sequence[Phase]) -> None:
    for record in records:
        if record.phase not in phases:
            raise DataError(
                f"the {kind} {record.id!r} must not be used here",
                expected=f"the phase {' or '.join(phases)}",
                got=f"the phase {record.phase}",
                next_step="leave it out: data from evaluation or screening must not be trained on",
            )
