"""A model card in Hugging Face's format, filled from a model's lineage and results. It says "unknown" for unknown facts.

The card is Markdown with a YAML header (every value is written as JSON, which YAML can read). The words are in
``model_card.md.jinja``; the facts come from :mod:`heedful.evaluate.card_facts`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from heedful.evaluate.card_facts import CardFacts
from heedful.evaluate.results import Estimate, Results
from heedful.evaluate.results_file import write_text

UNKNOWN = "unknown"
CARD = "README.md"
_GROUPS = {"held_out": "held-out labelers", "training": "training labelers"}
_MEASURES = {
    "truthfulness": ("truthfulqa",),
    "toxicity": ("real_toxicity_prompts",),
    "bias": ("winogender", "crows_pairs"),
}
"""What readers expect to be measured -> tasks of `heedful evaluate benchmarks` that measure it."""


def write_card(facts: CardFacts, path: str | Path, *, notes: str | None = None) -> None:
    """Write the card. ``notes``: Markdown about what the model is for. Raises StorageError."""
    write_text(path, model_card(facts, notes=notes))


def model_card(facts: CardFacts, *, notes: str | None = None) -> str:
    """Render the card as text. The same facts give the same text."""
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("heedful.evaluate").joinpath("model_card.md.jinja").read_text(encoding="utf-8"))
    lineage, results = facts.lineage, facts.results
    rows = list(_result_rows(facts))
    text = template.render(
        front_matter=front_matter(facts),
        title=cell(f"{facts.name or facts.run} of {facts.project}"),
        summary=_summary(facts),
        simulated=_simulated(facts),
        base_name=_base_name(facts),
        base_license=_base_license(facts),
        architecture=facts.architecture or UNKNOWN,
        parameters=UNKNOWN if facts.parameters is None else f"{facts.parameters:,}",
        chain=", then ".join(f"`{row['run']}`" for row in lineage["runs"] if row["stage"] != "data"),
        code=_code(lineage),
        project=cell(facts.project),
        run=facts.run,
        ended=lineage["runs"][-1]["ended"] or UNKNOWN,
        notes=(notes or "").strip()
        or "The purpose of this model is not recorded. Its publisher should state it here (`heedful card --notes`).",
        limits=list(_limits(facts)),
        usage_words=_usage_words(facts),
        usage=_usage(facts),
        data=list(_data_rows(lineage)),
        data_words=_data_words(lineage),
        prompt_lines=list(_prompt_lines(lineage)),
        labelers=list(_labeler_rows(lineage)),
        labelers_words=_labelers_words(facts),
        agreement=_agreement(results),
        instructions=_instructions(lineage),
        settings=list(_settings(lineage)),
        results=rows,
        results_words=_results_words(facts, rows),
        unknown=[cell(line) for line in lineage["unknown"]],
    )
    return text.rstrip() + "\n"


def cell(text: object) -> str:
    """Escape a value for a Markdown table or paragraph, so that names from users or labelers cannot become markup."""
    plain = " ".join(str(text).split())
    for sign in "\\`*_[]|<>#":
        plain = plain.replace(sign, {"<": "&lt;", ">": "&gt;"}.get(sign, "\\" + sign))
    return plain


# ---------------------------------------------------------------------------------------------------- the header


def front_matter(facts: CardFacts) -> str:
    """Render the header in YAML, without the lines of three dashes."""
    base, results = facts.base, facts.results
    header: dict[str, Any] = {
        "license": (base.license if base else None) or UNKNOWN,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["heedful", "rlhf", *(["simulated-feedback"] if _simulated(facts) else [])],
    }
    if base and base.name:
        header |= {"base_model": base.name, "base_model_relation": "finetune"}
    languages = [name for name in _prompts(facts.lineage).get("by_language", {}) if name != UNKNOWN and name.isalpha()]
    if languages:
        header["language"] = languages
    if measured := list(_index(facts, results)):
        header["model-index"] = [{"name": f"{facts.project} {facts.run}", "results": measured}]
    return "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in header.items())


def _index(facts: CardFacts, results: Results | None) -> Iterator[dict[str, Any]]:
    """Yield the header's results: win rates and benchmarks."""
    preference = None if results is None else results.get("preference")
    for row in [] if preference is None else preference["win_rates"]:
        if preference is not None and row["model"] == facts.name:
            data = f"held-out prompts, judged by {_GROUPS[row['group']]}"
            yield _entry(data, "win_rate", f"win rate against {preference['baseline']}", row["win_rate"])
    for score, series in _benchmark_scores(facts):
        name = f"{series['task']}, {series['setting']}"
        yield _entry(name, score["metric"].replace(" ", "_"), score["metric"], score["estimate"]["value"])


def _entry(data: str, metric: str, name: str, value: float) -> dict[str, Any]:
    return {
        "task": {"type": "text-generation"},
        "dataset": {"type": data.split(",")[0].replace(" ", "_"), "name": data},
        "metrics": [{"type": metric, "name": name, "value": value}],
    }


# ---------------------------------------------------------------------------------------------------- words


def _simulated(facts: CardFacts) -> bool:
    sources = facts.lineage["data"]
    return bool(facts.results and facts.results["labelers"] == "simulated") or any(
        "simulated labelers" in counts.get("by_source", {}) for counts in sources.values()
    )


def _summary(facts: CardFacts) -> str:
    trained = {row["stage"].split("_")[0] for row in facts.lineage["runs"]}
    ways = [words for stage, words in _WAYS.items() if stage in trained]
    base = "a base model" if facts.base is None else _base_name(facts)
    return f"A language model made from {base} by {_joined(ways)}." if ways else f"A language model made from {base}."


_WAYS = {
    "sft": "supervised fine-tuning on demonstrations",
    "reward": "a reward model of labelers' rankings",
    "ppo": "PPO against that reward model",
    "policy": "PPO in further rounds of feedback",
    "dpo": "direct preference optimization",
    "expert": "expert iteration",
    "cloning": "behaviour cloning on preferred answers",
    "task": "fine-tuning on a mixture of solved tasks",
}


def _joined(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _base_name(facts: CardFacts) -> str:
    base = facts.base
    if base is None:
        return UNKNOWN
    return cell(base.name) if base.name else f"{cell(Path(base.path).name)} (a local folder; digest {base.digest})"


def _base_license(facts: CardFacts) -> str:
    base = facts.base
    if base is None:
        return UNKNOWN
    said = (
        f"{base.license}, as its model card says" if base.license else f"{UNKNOWN}: its folder has no model card that names one"
    )
    return f"{said}; {', '.join(base.license_files)} in its folder" if base.license_files else said


def _code(lineage: Mapping[str, Any]) -> str:
    said = [
        f"heedful {one['heedful']}, sources {one['sources']}" + (f", commit {one['commit']}" if one["commit"] else "")
        for one in lineage["code"]
    ]
    return "; ".join(said) or UNKNOWN


def _limits(facts: CardFacts) -> Iterator[str]:
    tasks = {series["task"] for _, series in _benchmark_scores(facts)}
    for what, names in _MEASURES.items():
        if not tasks.intersection(names):
            yield f"Its {what} was not measured on a public benchmark."
    if facts.results is None or not any(
        row["model"] == facts.name for row in facts.results.get("preference", {}).get("win_rates", [])
    ):
        yield "Its answers have not been compared with those of other models yet."
    languages = _prompts(facts.lineage).get("by_language", {})
    if languages and set(languages) == {UNKNOWN}:
        yield "The languages of its training prompts are not recorded."
    for row in (facts.results or {}).get("alignment_tax", []):
        drop = {"ppo": row["drop_ppo"], "ppo_ptx": row["drop_ppo_ptx"]}.get(facts.name or "")
        if drop is not None and drop > 0:
            yield f"On {cell(row['benchmark'])} it is {100 * drop:.1f} points below its base model."
    for row in (facts.results or {}).get("ratings", []):
        if row["model"] == facts.name and "hallucination" in row["flags"]:
            rate = 100 * row["flags"]["hallucination"]
            yield f"{_GROUPS[row['group']].capitalize()} found invented facts in {rate:.1f} % of its rated answers."
    yield "The reward model learned what these labelers preferred on these prompts; other people may prefer other answers."


def _usage_words(facts: CardFacts) -> str:
    if facts.template == "plain":
        return (
            "The model continues plain text: it has no chat template. It was trained on prompts as their users wrote them; "
            "several turns are written as `Human: ...` and `Assistant: ...`."
        )
    return "The model answers in the chat template that is saved with its tokenizer."


def _usage(facts: CardFacts) -> str:
    start = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'folder = "."  # of this model',
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        "model = AutoModelForCausalLM.from_pretrained(folder)",
    ]
    if facts.template == "plain":
        asked = ['inputs = tokenizer("Name a river.\\n", return_tensors="pt")']
    else:
        asked = [
            'messages = [{"role": "user", "content": "Name a river."}]',
            "inputs = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
            ")",
        ]
    end = [
        "output = model.generate(**inputs, max_new_tokens=64)",
        'print(tokenizer.decode(output[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]
    return "\n".join([*start, *asked, *end])


# ---------------------------------------------------------------------------------------------------- data and labelers


def _prompts(lineage: Mapping[str, Any]) -> Mapping[str, Any]:
    return lineage["data"]["prompts"]


def _data_rows(lineage: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for kind, counts in lineage["data"].items():
        gone = f", {counts['no_longer_there']:,} no longer there" if "no_longer_there" in counts else ""
        yield {
            "kind": kind,
            "count": f"{counts['count']:,}{gone}",
            "by_split": _listed(counts.get("by_split", {})),
            "by_source": _listed(counts.get("by_source", {})),
        }


def _data_words(lineage: Mapping[str, Any]) -> str:
    if not any(counts["count"] for counts in lineage["data"].values()):
        return "Which records the model was trained on is not recorded."
    return "The records that its training stages were given. Their texts are not part of this card."


def _prompt_lines(lineage: Mapping[str, Any]) -> Iterator[str]:
    for key, words in (("by_use_case", "Use cases"), ("by_language", "Languages"), ("by_imported", "Imported on")):
        if counts := _prompts(lineage).get(key):
            yield f"{words} of the prompts: {_listed(counts)}."


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{cell(name)} {count:,}" for name, count in counts.items()) or "-"


def _labeler_rows(lineage: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, row in lineage["labelers"].items():
        yield {
            "name": cell(name),
            "group": cell(str(row.get("group", UNKNOWN)).replace("_", "-")),
            "demonstrations": f"{row.get('demonstrations', 0):,}",
            "rankings": f"{row.get('rankings', 0):,}",
        }


def _labelers_words(facts: CardFacts) -> str:
    number = len(facts.lineage["labelers"])
    if not number:
        return "The labelers are not recorded."
    who = "simulated labelers" if _simulated(facts) else "labelers, under pseudonyms or the names that their files give"
    return f"{number:,} {who}."


def _agreement(results: Results | None) -> str:
    found = (results or {}).get("reward_model", {}).get("agreement", {})
    if not found:
        return "How often labelers agree is not measured: this needs answers of several labelers to the same tasks."
    said = [f"{_GROUPS[group]} {_percent(one)} ({one['count']:,} comparisons)" for group, one in found.items()]
    return f"How often two labelers of a group prefer the same answer: {'; '.join(said)}."


def _percent(one: Estimate) -> str:
    return f"{100 * one['value']:.1f} % ({100 * one['low']:.1f} to {100 * one['high']:.1f})"


def _instructions(lineage: Mapping[str, Any]) -> str:
    said: list[str] = []
    for kind, versions in lineage["instructions"].items():
        of = [
            f"{'no version recorded' if version == UNKNOWN else f'version {version}'} ({count:,} labels)"
            for version, count in versions.items()
        ]
        said.append(f"{kind}: {', '.join(of)}")
    return f"{'; '.join(said)}." if said else "not recorded."


def _settings(lineage: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for row in lineage["runs"]:
        if row["config"]:
            values = [(name, cell(json.dumps(value))) for name, value in row["config"].items()]
            yield {"run": row["run"], "fields": values}


# ---------------------------------------------------------------------------------------------------- results


def _result_rows(facts: CardFacts) -> Iterator[dict[str, str]]:
    results = facts.results
    if results is not None:
        yield from _judged_rows(results, facts.name)
        yield from _reward_rows(results)
        for benchmark in results.get("benchmarks", []):
            for score in benchmark["scores"]:
                if score["model"] == facts.name:
                    value, low, high = (100 * score[key] for key in ("score", "low", "high"))
                    what = f"{benchmark['name']}, {benchmark['metric']}"
                    yield _row(what, f"{value:.1f} %", f"{low:.1f} to {high:.1f}", f"{benchmark['num_items']:,} items")
    for score, series in _benchmark_scores(facts):
        one, scored = score["estimate"], score["num_items"] - score["num_unscored"]
        if one["value"] is None or not scored:
            yield _row(
                f"{series['task']}, {series['setting']}, {score['metric']}", "not scored", "-", f"{score['num_items']:,} items"
            )
            continue
        yield _row(
            f"{series['task']}, {series['setting']}, {score['metric']}",
            f"{one['value']:.4g}",
            _interval(one["low"], one["high"]),
            f"{scored:,} items",
        )


def _interval(low: float | None, high: float | None) -> str:
    return UNKNOWN if low is None or high is None else f"{low:.4g} to {high:.4g}"


def _judged_rows(results: Results, name: str | None) -> Iterator[dict[str, str]]:
    preference = results.get("preference")
    if preference is not None:
        for row in preference["win_rates"]:
            if row["model"] == name:
                yield _rate(f"win rate against {preference['baseline']}", row, _GROUPS[row["group"]])
        for row in preference["head_to_head"]:
            if row["model"] == name:
                yield _rate(f"win rate against {row['against']}", row, _GROUPS[row["group"]])
    for row in results.get("ratings", []):
        if row["model"] == name:
            interval = _interval(row["low"], row["high"])
            yield _row("rating from 1 to 7", f"{row['overall']:.2f}", interval, _GROUPS[row["group"]])
    for row in results.get("closed_domain_hallucination", []):
        if row["model"] == name:
            one = row["rate"]
            interval = f"{100 * one['low']:.1f} to {100 * one['high']:.1f}"
            on = f"closed-domain prompts, {_GROUPS[row['group']]}, {one['count']:,} answers"
            yield _row("answers with invented facts", f"{100 * one['value']:.1f} %", interval, on)


def _reward_rows(results: Results) -> Iterator[dict[str, str]]:
    section = results.get("reward_model")
    if section is not None:
        interval = f"{100 * section['low']:.1f} to {100 * section['high']:.1f}"
        on = f"{section['num_comparisons']:,} comparisons of prompts that it was not trained on"
        yield _row("reward model: comparisons it gets right", f"{100 * section['accuracy']:.1f} %", interval, on)


def _rate(what: str, row: Any, who: str) -> dict[str, str]:
    interval = f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
    return _row(what, f"{100 * row['win_rate']:.1f} %", interval, f"{row['num_comparisons']:,} comparisons by {who}")


def _row(what: str, value: str, interval: str, on: str) -> dict[str, str]:
    return {"what": cell(what), "value": value, "interval": interval, "on": cell(on)}


def _benchmark_scores(facts: CardFacts) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    if facts.benchmarks is None:
        return
    series = {one["name"]: one for one in facts.benchmarks["series"]}
    for score in facts.benchmarks["scores"]:
        if score["model"] == facts.benchmark_name and score["series"] in series:
            yield score, series[score["series"]]


def _results_words(facts: CardFacts, rows: list[dict[str, str]]) -> str:
    if not rows:
        return "The model was not evaluated, or its evaluation is older than the model."
    said: list[str] = []
    if facts.results is not None:
        said.append("Win rates and ratings are of answers to prompts that were held out from training.")
    if facts.benchmarks is not None:
        said += [str(note) for note in facts.benchmarks.get("notes", [])]
        said += [str(note) for one in facts.benchmarks["series"] for note in one.get("notes", [])]
    return " ".join(cell(line) + ("" if line.endswith(".") else ".") for line in dict.fromkeys(said))
