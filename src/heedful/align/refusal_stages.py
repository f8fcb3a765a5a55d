"""The stages that make comparisons of refusals, and that check which prompts each model declines (SPEC 7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from zlib import crc32

from rich.console import Console

from heedful.align.choose import answer_with_prefix
from heedful.align.judge import entrants
from heedful.align.settings import Given, Setting
from heedful.evaluate import lineup
from heedful.evaluate.results import RefusalRate, RefusalResults, as_estimate
from heedful.model.answering import Answerer, prompts_within
from heedful.model.inference import policy_for_inference
from heedful.model.loading import load_tokenizer
from heedful.project.data_folder import record_to_json
from heedful.project.files import write_jsonl
from heedful.project.refusals import POLICY, Refusals
from heedful.project.runs import records_in
from heedful.ranks.world import world
from heedful.records import Prompt, Ranking, Response
from heedful.statistics import proportion

OTHER_PROMPTS = "all other prompts"
"""In place of a category: the evaluation's prompts. No category's name has a space."""


def compare(given: Given, *, folder: Path, console: Console) -> None:
    """Let models answer the marked training prompts; writes responses.jsonl and rankings.jsonl.

    The SFT model answers all of them. It has learned to decline, so it shows hardly any answer that a refusal should win
    against. Two others do: the base model's answers, and what the SFT model said to near misses of the same category, which
    read like help with it.
    """
    setting, refusals = given.setting, _refusals(given)
    limits = setting.preset.answering("collect")
    tokenizer = load_tokenizer(given.model_of("sft"))
    prompts = prompts_within(tokenizer, refusals.training_prompts(), limits.max_prompt_tokens, console, setting.template)
    answers = _answers(given, "sft", given.model_of("sft"), prompts, console)
    declined = [prompt for prompt in prompts if refusals.mark(prompt.id).decline]
    if declined and given.model_of("sft") != setting.base_model:
        from_base = _answers(given, "base", setting.base_model, declined, console)
        helpful = _helpful_answers(refusals, answers)
        for prompt in declined:
            answers[prompt.id] += [
                *from_base[prompt.id],
                *_borrowed(prompt, helpful.get(refusals.mark(prompt.id).category, [])),
            ]
    if not world().is_rank_zero:
        return
    made = compared(refusals, [(prompt, answers[prompt.id]) for prompt in prompts])
    write_jsonl(folder / "responses.jsonl", (record_to_json(one) for responses, _ in made for one in responses))
    write_jsonl(folder / "rankings.jsonl", (record_to_json(one) for _, rankings in made for one in rankings))
    with_one = sum(bool(rankings) for _, rankings in made)
    console.print(f"{with_one:,} of {len(prompts):,} marked prompts have a comparison with a refusal", highlight=False)


def _answers(given: Given, name: str, folder: Path, prompts: Sequence[Prompt], console: Console) -> dict[str, list[Response]]:
    """The model's answers to each prompt, by the prompt's id."""
    setting, number = given.setting, given.setting.preset.refusals.answers
    limits = setting.preset.answering("collect")
    model, tokenizer = policy_for_inference(folder, limits.precision)
    found: dict[str, list[Response]] = {prompt.id: [] for prompt in prompts}
    for answer in Answerer(model, tokenizer, limits, setting.project.engine, setting.template).answer(
        [prompt for prompt in prompts for _ in range(number)],
        name=name,
        ids=[f"refusal-{name}-{prompt.id}-{i}" for prompt in prompts for i in range(number)],
        temperature=setting.preset.collect.temperature,
        seed=setting.seed,
        console=console,
    ):
        found[answer.prompt_id].append(answer)
    return found


def _helpful_answers(refusals: Refusals, answers: Mapping[str, Sequence[Response]]) -> dict[str, list[Response]]:
    """The first answer to each near miss that is not a refusal, by category."""
    found: dict[str, list[Response]] = {}
    for prompt_id, own in answers.items():
        mark = refusals.mark(prompt_id)
        if not mark.decline:
            found.setdefault(mark.category, []).extend([one for one in own if not refusals.declines(one.text)][:1])
    return found


def _borrowed(prompt: Prompt, answers: Sequence[Response]) -> list[Response]:
    """One of the answers in the place of an answer to this prompt; which one depends on the prompt only."""
    if not answers:
        return []
    chosen = answers[crc32(prompt.id.encode()) % len(answers)]
    return [replace(chosen, id=f"refusal-borrowed-{prompt.id}", prompt_id=prompt.id)]


def compared(
    refusals: Refusals, answered: Sequence[tuple[Prompt, Sequence[Response]]]
) -> list[tuple[list[Response], list[Ranking]]]:
    """For each marked prompt a refusal and the models' answers to it, and a comparison of the refusal with each of them.

    The refusal wins where the prompt must be declined, and loses where it must not: there a labeler's answer is among the
    others. The others are not compared with each other. An answer that is a refusal of the project, word for word, is left out;
    without another there is no comparison.
    """
    written, known = refusals.written(), refusals.refusal_texts()
    made: list[tuple[list[Response], list[Ranking]]] = []
    for prompt, answers in answered:
        mark, own = refusals.mark(prompt.id), [one.text for one in written.get(prompt.id, [])]
        text = own[0] if mark.decline and own else refusals.categories[mark.category].answer
        refusal = Response(id=f"refusal-{prompt.id}", prompt_id=prompt.id, text=text, model=POLICY)
        others = [one for one in answers if one.text.strip() not in known]
        if not mark.decline and own:
            others.insert(0, Response(id=f"refusal-{prompt.id}-written", prompt_id=prompt.id, text=own[0], model="human"))
        rankings = [
            Ranking(
                id=f"refusal-{prompt.id}-{i}",
                prompt_id=prompt.id,
                response_ids=(refusal.id, one.id),
                ranks=(1, 2) if mark.decline else (2, 1),
                labeler=POLICY,
                metadata={"refusal": mark.category},
            )
            for i, one in enumerate(others)
        ]
        made.append(([refusal, *others] if others else [], rankings))
    return made


def check(given: Given, *, folder: Path, console: Console) -> None:
    """Let every model answer the held-out marked prompts; writes responses.jsonl.

    Best of n is not among them: it is no model of its own, and its answers are chosen for the evaluation's prompts only.
    """
    setting, limits, evaluate = given.setting, given.setting.preset.answering("evaluate"), given.setting.preset.evaluate
    tokenizer = load_tokenizer(setting.base_model)
    prompts = prompts_within(
        tokenizer, _refusals(given).held_out_prompts(), limits.max_prompt_tokens, console, setting.template
    )
    responses: list[Response] = []
    for entrant in entrants(given) if prompts else ():
        name = entrant.model.name
        if name == lineup.BEST_OF_N.name:
            continue
        model, tokenizer = policy_for_inference(entrant.folder, limits.precision)
        if entrant.prefix is not None:
            responses += answer_with_prefix(setting, model, tokenizer, prompts, entrant.prefix, name, console)
            continue
        responses += Answerer(model, tokenizer, limits, setting.project.engine, setting.template).answer(
            prompts,
            name=name,
            ids=[f"{name}-{prompt.id}" for prompt in prompts],
            temperature=evaluate.temperature,
            seed=setting.seed,
            console=console,
        )
    if world().is_rank_zero:
        write_jsonl(folder / "responses.jsonl", map(record_to_json, responses))


def section(
    setting: Setting, prompts: Mapping[str, Prompt], runs: Mapping[str, Path], others: Iterable[Response]
) -> RefusalResults | None:
    """How often each model declines, by category and by what it should do; None without a check.

    prompts: the ordinary ones. others: the models' answers to those of the evaluation, which none of them should decline. The
    intervals are over the prompts' owners. A changed phrase changes this section and no stage.
    """
    refusals = setting.refusals
    if refusals is None or "refusal_check" not in runs:
        return None
    cells: dict[tuple[str, str, bool], list[tuple[str, bool]]] = {}
    for response in records_in(runs["refusal_check"], "response"):
        mark = refusals.mark(response.prompt_id)
        prompt = refusals.records.prompts[response.prompt_id]
        cell = cells.setdefault((str(response.model), mark.category, mark.decline), [])
        cell.append((prompt.user or prompt.id, refusals.declines(response.text)))
    for response in others:
        prompt = prompts[response.prompt_id]
        cell = cells.setdefault((str(response.model), OTHER_PROMPTS, False), [])
        cell.append((prompt.user or prompt.id, refusals.declines(response.text)))
    rates = [
        RefusalRate(
            model=model,
            category=category,
            should="decline" if decline else "answer",
            declined=as_estimate(proportion([found for _, found in rows], [owner for owner, _ in rows], seed=setting.seed)),
        )
        for (model, category, decline), rows in cells.items()
    ]
    categories = [
        {"name": name, "covers": one.covers, "weight": refusals.weights[name]} for name, one in refusals.categories.items()
    ]
    return RefusalResults(categories=categories, rates=rates)  # pyright: ignore[reportArgumentType]


def _refusals(given: Given) -> Refusals:
    refusals = given.setting.refusals
    assert refusals is not None
    return refusals
