"""A project's demonstrations and rankings as tokens, for the stages that train on them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rich.console import Console

from heedful.align.settings import Given, Setting, needs_of
from heedful.model.answering import Limits
from heedful.model.encoding import Example, RankedPrompt, encode_demonstrations, encode_prompts, encode_rankings
from heedful.project.refusals import Refusals
from heedful.project.runs import records_in
from heedful.project.selection import demonstrations_of, training_rankings
from heedful.records import Split


def encoded_demonstrations(given: Given, tokenizer: Any, console: Console) -> tuple[list[Example], list[Example]]:
    """Demonstrations to train on, and demonstrations to validate on (the first 100 of the former if there are no others)."""
    records, encoding = given.records, encoding_options(given.setting, given.config)
    examples, counts = encode_demonstrations(tokenizer, records.prompts, demonstrations_of(records, "train"), **encoding)
    console.print(f"demonstrations: {counts}", highlight=False)
    held_out = demonstrations_of(records, "valid")
    validation, counts = encode_demonstrations(tokenizer, records.prompts, held_out, may_be_empty=True, **encoding)
    console.print(f"validation demonstrations: {counts}", highlight=False)
    if not validation:
        console.print("the validation loss is measured on training demonstrations", highlight=False)
    return [*examples, *_refusal_examples(given, tokenizer, console)], validation or examples[:100]


def encoded_rankings(
    given: Given, limits: Limits, tokenizer: Any, console: Console, *, with_ties: bool
) -> tuple[list[RankedPrompt], list[RankedPrompt]]:
    """Rankings to train on, with comparisons of refusals, and rankings to validate on."""
    records = given.records
    found: list[list[RankedPrompt]] = []
    splits: tuple[Split, ...] = ("train", "valid")
    for split in splits:
        ranked, counts = encode_rankings(
            tokenizer,
            records.prompts,
            records.responses,
            training_rankings(records, split),
            with_ties=with_ties,
            may_be_empty=split == "valid",
            **encoding_options(given.setting, limits),
        )
        console.print(f"{'validation ' if split == 'valid' else ''}rankings: {counts}", highlight=False)
        found.append(ranked)
    return [*found[0], *_refusal_rankings(given, limits, tokenizer, console, with_ties=with_ties)], found[1]


def encoded_refusal_prompts(given: Given, limits: Limits, tokenizer: Any, console: Console) -> list[list[int]]:
    """The marked prompts that a policy answers while it learns; none if no refusals are trained."""
    refusals = _refusals(given)
    if refusals is None:
        return []
    _, tokens, counts = encode_prompts(
        tokenizer, refusals.training_prompts(), max_tokens=limits.max_prompt_tokens, template=given.setting.template
    )
    console.print(f"prompts marked for refusals: {counts}", highlight=False)
    return tokens


def _refusal_examples(given: Given, tokenizer: Any, console: Console) -> list[Example]:
    """What SFT learns of marked prompts, each with the weight of its category."""
    refusals = _refusals(given)
    if refusals is None:
        return []
    found: list[Example] = []
    for name in refusals.categories:
        own = [one for one in refusals.demonstrations() if refusals.mark(one.prompt_id).category == name]
        if own:
            examples, counts = encode_demonstrations(
                tokenizer, refusals.records.prompts, own, may_be_empty=True, **encoding_options(given.setting, given.config)
            )
            console.print(f"refusals of {name}, weight {refusals.weights[name]:g}: {counts}", highlight=False)
            found += [replace(example, weight=refusals.weights[name]) for example in examples]
    return found


def _refusal_rankings(given: Given, limits: Limits, tokenizer: Any, console: Console, *, with_ties: bool) -> list[RankedPrompt]:
    """Comparisons with refusals, each prompt's with the weight of its category."""
    refusals = _refusals(given)
    if refusals is None or "compared" not in given.stage.needs:
        return []
    run = given.runs.get("refusal_comparisons")
    if run is None:  # a further round, after a first one without refusals
        console.print("comparisons with refusals: none, as the first round made none", highlight=False)
        return []
    wanted = {prompt.id for prompt in refusals.training_prompts()}
    ranked, counts = encode_rankings(
        tokenizer,
        refusals.records.prompts,
        {one.id: one for one in records_in(run, "response")},
        [one for one in records_in(run, "ranking") if one.prompt_id in wanted],
        with_ties=with_ties,
        may_be_empty=True,
        **encoding_options(given.setting, limits),
    )
    console.print(f"comparisons with refusals: {counts}", highlight=False)
    return [replace(one, weight=refusals.weight(one.prompt_id)) for one in ranked]


def _refusals(given: Given) -> Refusals | None:
    """What the stage learns to decline; None if it learns nothing of it."""
    return given.setting.refusals if "refusals" in needs_of(given) else None


def encoding_options(setting: Setting, limits: Limits) -> dict[str, Any]:
    """Options for encoding a project's records: its template, and the longest prompt and response, in tokens."""
    return {
        "template": setting.template,
        "max_prompt_tokens": limits.max_prompt_tokens,
        "max_response_tokens": limits.max_response_tokens,
    }
