"""Runs of ``heedful evaluate benchmarks`` on tiny models: the same numbers at any batch size, after kills, and again."""

from __future__ import annotations

import json
import os
import random
import re
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.align.small_project import heedful, run
from tests.evaluate.benchmarks.data_sets import jsonl, rte, write_data_sets
from tests.model.test_template import chat_tokenizer
from tests.tiny import END, plain, tiny_gpt2
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM

from heedful.errors import ConfigError, DataError
from heedful.evaluate.benchmarks import asking_models, benchmark_run, item_results
from heedful.evaluate.benchmarks.asking_models import asked, choice_logprobs, sampled
from heedful.evaluate.benchmarks.benchmark_evaluation import RESULTS
from heedful.evaluate.benchmarks.benchmark_run import contestants
from heedful.evaluate.benchmarks.task_table import TASKS, Item
from heedful.model import save_model
from heedful.model.inference import load_policy
from heedful.model.scratch import new_gpt2, train_tokenizer
from heedful.model.template import encode, encode_after

TEXT = [
    "The red cat sleeps. A blue dog barks at night. Question: who paints a house? Answer: the man. Passage: it was sold.",
    "Yes, it is positive. No, it is negative. Title: Cold Sea. Background: The sea is cold. Label: positive",
]


def write_model(folder: Path, seed: int, context_length: int = 512) -> Path:
    tokenizer = train_tokenizer(TEXT, vocabulary_size=400, context_length=context_length)
    model = new_gpt2(tokenizer, layers=2, width=32, heads=2, context_length=context_length, seed=seed)
    save_model(model, tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [write_model(folder / name, seed) for seed, name in enumerate(("base", "tuned"))]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_sets(tmp_path_factory.mktemp("data"))


FAST = ("--precision", "float32", "--limit", "4")
SMALL = (*FAST, "--tasks", "rte", "wsc", "crows_pairs", "--settings", "zero-shot", "basic")


def results(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


def values(out: Path) -> dict[tuple[str, str, str], float]:
    return {(s["model"], s["series"], s["metric"]): s["estimate"]["value"] for s in results(out)["scores"]}


def files(out: Path) -> dict[str, bytes]:
    """All files of a run but the times and the lock."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in ("timings.jsonl", ".lock")
    }


def test_every_benchmark_runs_from_end_to_end(models: list[Path], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, said = run("evaluate", "benchmarks", *models, "--data", data, "--out", out, "--precision", "float32", "--limit", "2")
    assert code == 0, said
    found = results(out)
    assert {one["task"] for one in found["series"]} == {task.name for task in TASKS if task.in_paper}
    assert len(found["series"]) == 4 * 3 + 8 * 2 + 2
    assert "no data for arc_easy, arc_challenge, boolq, winograd: left out" in said
    assert "RTE, few-shot" in said
    assert "toxicity by alt-profanity-check" in said
    assert "TruthfulQA has no judge" in said
    by_name = {(s["model"], s["series"], s["metric"]): s for s in found["scores"]}
    for score in by_name.values():
        value = score["estimate"]["value"]
        if score["series"].startswith("truthfulqa"):
            assert value is None
            assert score["num_unscored"] == 2
        elif value is not None:
            assert 0 <= value <= (100 if score["metric"] == "bleu" else 1)
    assert by_name["base", "rte.few-shot", "accuracy"]["num_items"] == 2
    # 15 examples do not fit 512 tokens of a tokenizer this small: the prompts are cut, and it is said.
    assert by_name["base", "hellaswag.few-shot", "accuracy"]["num_cut"] == 2
    assert "base, hellaswag.few-shot: 2 prompts were cut at their beginning" in said
    assert {d["model"] for d in found["differences"]} == {"tuned"}
    times = [json.loads(line) for line in (out / "timings.jsonl").read_text().splitlines()]
    assert len(times) == 2 * len(found["series"])
    assert all(time["seconds"] >= 0 and time["peak_memory_bytes"] > 1e6 and time["items"] == 2 for time in times)
    quarters = found["toxicity_by_prompt"]["base"]["real_toxicity_prompts.basic"]
    assert sum(quarter["items"] for quarter in quarters) == 2


def test_a_second_run_asks_nothing_and_gives_the_same_bytes(
    models: list[Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("evaluate", "benchmarks", *models, "--data", data, "--out", tmp_path / "out", *SMALL)
    assert run(*arguments)[0] == 0
    first = files(tmp_path / "out")

    def refuse(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(benchmark_run, "policy_for_inference", refuse)
    assert run(*arguments)[0] == 0
    assert files(tmp_path / "out") == first


def test_a_larger_limit_keeps_what_was_answered(
    models: list[Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = ("evaluate", "benchmarks", models[0], "--data", data, "--out", tmp_path / "out", "--precision", "float32")
    assert run(*start, "--tasks", "rte", "--settings", "zero-shot", "--limit", "2", "--batch-items", "1")[0] == 0
    asked_for: list[str] = []
    answers = benchmark_run.answers

    def noted(subject: Any, task: Any, items: Sequence[Item]) -> Any:
        asked_for.extend(item.id for item in items)
        return answers(subject, task, items)

    monkeypatch.setattr(benchmark_run, "answers", noted)
    code, said = run(*start, "--tasks", "rte", "--settings", "zero-shot", "--limit", "5", "--batch-items", "1")
    assert code == 0, said
    assert len(asked_for) == 3


def test_the_numbers_do_not_depend_on_the_batch_size(models: list[Path], data: Path, tmp_path: Path) -> None:
    found: list[dict[tuple[str, str, str], float]] = []
    rows: list[list[dict[str, Any]]] = []
    for size in (1, 3, 64):
        out = tmp_path / str(size)
        code, said = run(
            "evaluate", "benchmarks", models[0], "--data", data, "--out", out, *FAST, "--batch-items", size,
            "--tasks", "rte", "drop", "winogender", "wmt15_fr_en",
        )  # fmt: skip
        assert code == 0, said
        found.append(values(out))
        paths = sorted((out / "base").glob("*.jsonl"))
        rows.append([json.loads(line) for path in paths for line in path.read_text().splitlines()])
    for other in found[1:]:
        assert other == pytest.approx(found[0], abs=1e-4)
    for other in rows[1:]:
        for one, two in zip(rows[0], other, strict=True):
            assert (one["id"], one.get("response")) == (two["id"], two.get("response"))
            assert two.get("logprobs", []) == pytest.approx(one.get("logprobs", []), abs=1e-4)


# ---------------------------------------------------------------------------------------------------- killed


def kill_at(seed: int, log: Path) -> None:
    """Let this process kill itself at one of its next writes: as it adds rows (before, amid, after) or puts a file in place.

    At the latest it dies as it puts the results in place, when no row is left to add.
    """
    chance = random.Random(seed)
    left, where = chance.randrange(2), chance.choice(("before", "amid", "after", "replace"))
    append, replace = item_results.append_jsonl, os.replace

    def add(path: Path, rows: Sequence[Any]) -> None:
        nonlocal left
        left -= bool(rows) and where != "replace"
        if left >= 0:
            append(path, rows)
            return
        if where == "amid":
            data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
            with path.open("ab") as file:
                file.write(data[: chance.randrange(1, len(data))])
        elif where == "after":
            append(path, rows)
        os.kill(os.getpid(), signal.SIGKILL)

    def put(source: Any, target: Any) -> None:
        last = Path(target).name == RESULTS
        if (where == "replace" or last) and chance.random() < 0.5:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if where == "replace" or last:
            os.kill(os.getpid(), signal.SIGKILL)

    item_results.append_jsonl = add
    os.replace = put
    benchmark_run.answers = noting(log)


def noting(log: Path) -> Any:
    """``benchmark_run.answers`` that also writes down each batch that is asked."""
    answers = benchmark_run.answers

    def noted(subject: Any, task: Any, items: Sequence[Item]) -> Any:
        with log.open("a") as file:
            file.write(json.dumps([task.name, [item.id for item in items]]) + "\n")
        return answers(subject, task, items)

    return noted


def run_with_kills(
    processes: Any, models: list[Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int, *settings: str
) -> None:
    """Each process dies at one of its next writes; the last run is not killed."""
    log = tmp_path / "asked.jsonl"
    arguments = (
        "evaluate", "benchmarks", models[0], "--data", data, "--tasks", "rte", "wsc", "crows_pairs", "--settings",
        *settings, "--precision", "float32", "--limit", "6", "--batch-items", "1",
    )  # fmt: skip
    assert run(*arguments, "--out", tmp_path / "whole")[0] == 0
    num_items = sum(len(path.read_text().splitlines()) for path in (tmp_path / "whole" / "base").glob("*.jsonl"))
    out = tmp_path / "killed"
    for seed in range(kills):
        ended = heedful(processes, *arguments, "--out", out, before=partial(kill_at, seed, log))
        assert ended.returncode == -signal.SIGKILL, ended.stderr
    monkeypatch.setattr(benchmark_run, "answers", noting(log))
    assert run(*arguments, "--out", out)[0] == 0
    assert files(out) == files(tmp_path / "whole")
    # A batch is one item here: it is asked again only if the kill came before its row was whole on the disk.
    batches = log.read_text().splitlines()
    assert num_items <= len(batches) <= num_items + kills


def test_killed_and_started_again_gives_the_same_bytes(
    processes: Any, models: list[Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_with_kills(processes, models, data, tmp_path, monkeypatch, 3, "zero-shot", "basic")


@pytest.mark.long
@pytest.mark.timeout(7200)  # twenty processes load the model, each in minutes on a busy machine
def test_twenty_kills(processes: Any, models: list[Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ("zero-shot", "few-shot", "basic", "respectful", "biased")
    run_with_kills(processes, models, data, tmp_path, monkeypatch, 20, *settings)


# ---------------------------------------------------------------------------------------------------- what is refused


def test_answers_under_other_settings_are_not_mixed(models: list[Path], data: Path, tmp_path: Path) -> None:
    start = ("evaluate", "benchmarks", f"m={models[0]}", "--data", data, "--out", tmp_path / "out", "--tasks", "rte")
    rest = ("--settings", "zero-shot", "--limit", "2")
    assert run(*start, *rest, "--precision", "float32")[0] == 0
    code, said = run(*start, *rest, "--precision", "bfloat16")
    assert (code, "answers with another precision" in said) == (2, True)
    other = ("evaluate", "benchmarks", f"m={models[1]}", "--data", data, "--out", tmp_path / "out", "--tasks", "rte")
    code, said = run(*other, *rest, "--precision", "float32")
    assert (code, "answers with another model" in said) == (2, True)
    changed = [{**rte(i), "premise": "Another text."} for i in range(6)]
    jsonl(tmp_path / "data" / "rte" / "val.jsonl", changed)
    code, said = run(*start[:4], tmp_path / "data", *start[5:], *rest, "--precision", "float32")
    assert (code, "belongs to another question" in said) == (2, True)


def test_a_template_in_a_file(models: list[Path], data: Path, tmp_path: Path) -> None:
    """Settings keep a digest of it: answers under another template are not mixed in."""
    template = tmp_path / "ours.jinja"
    template.write_text("{% for m in messages %}{{ 'Passage: ' + m['content'] + eos_token }}{% endfor %}Answer:")
    start = ("evaluate", "benchmarks", models[0], "--data", data, "--out", tmp_path / "out", *SMALL)
    code, said = run(*start, "--template", template)
    assert code == 0, said
    settings = json.loads((tmp_path / "out" / "base" / "rte.zero-shot.settings.json").read_text())
    assert re.fullmatch(r"file [0-9a-f]{16}", settings["template"])
    assert run(*start, "--template", template)[0] == 0
    code, said = run(*start)
    assert (code, "answers with another template" in said) == (2, True)
    template.write_text(template.read_text().replace("Passage", "Title"))
    code, said = run(*start, "--template", template)
    assert (code, "answers with another template" in said) == (2, True)
    code, said = run(*start, "--template", tmp_path / "none.jinja")
    assert (code, "the template cannot be read" in said) == (2, True)


def test_mistakes_of_the_user(models: list[Path], data: Path, tmp_path: Path) -> None:
    start = ("evaluate", "benchmarks", models[0], "--data", data, "--out", tmp_path / "out")
    for more, message in (
        (("--tasks", "rte", "nli"), "there is no such task"),
        (("--tasks", "boolq"), "no data for BoolQ"),
        (("--limit", "0"), "--limit is too small"),
        (("--batch-items", "0"), "--batch-items is too small"),
        (("--tasks", "rte", "--settings", "basic"), "there is nothing to ask"),
        (("--judge-url", "localhost"), "not the address of a judge"),
        (("--judge-url", "http://localhost"), "no name"),
        (("--judge-url", "http://localhost", "--verdicts", "x.csv"), "judged in one way"),
    ):
        code, said = run(*start, *more)
        assert (code, message in said) == (2, True), said
    code, said = run("evaluate", "benchmarks", tmp_path / "none", "--data", data, "--out", tmp_path / "out", *SMALL)
    assert (code, "there is no model here" in said) == (2, True), said
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    for data_folder, out, message in (
        ("empty", "out", "there is nothing to ask"),
        ("nothing", "out", "there is no such folder of data"),
        ("file", "out", "there is no such folder of data"),
        ("empty", "file", "results cannot be written into a file"),
    ):
        code, said = run("evaluate", "benchmarks", models[0], "--data", tmp_path / data_folder, "--out", tmp_path / out)
        assert (code, message in said) == (2, True), said


def test_names_of_models() -> None:
    found = contestants(["runs/sft-1/model", "sft=elsewhere", "other"])
    assert [(one.name, str(one.folder)) for one in found] == [
        ("sft-1", "runs/sft-1/model"),
        ("sft", "elsewhere"),
        ("other", "other"),
    ]
    with pytest.raises(ConfigError, match="two models are called 'a'"):
        contestants(["x/a", "y/a"])
    with pytest.raises(ConfigError, match="cannot have this name"):
        contestants(["../up=a"])


# ---------------------------------------------------------------------------------------------------- asking


def test_a_choice_has_the_probability_of_its_tokens(models: list[Path]) -> None:
    """By hand: log-softmax of the plain model's logits, summed over the choice's tokens."""
    policy, tokenizer = load_policy(models[0])
    subject = asked(policy, tokenizer)
    items = [
        Item(id="a", prompt="Passage:", pairs=(("Passage:", " the man"), ("Passage:", " the cat sleeps"))),
        Item(id="b", pairs=(("", "The red cat"), ("", "A dog"))),
        Item(id="c", pairs=(("The cat", " sleeps"), ("A dog", " sleeps"))),
    ]
    reference = AutoModelForCausalLM.from_pretrained(models[0])
    for item, row in zip(items, choice_logprobs(subject, items), strict=True):
        assert row["cut"] == 0
        for (before, after), total, length in zip(item.pairs, row["logprobs"], row["lengths"], strict=True):
            head = tokenizer(before)["input_ids"] or [tokenizer.bos_token_id]
            tail = tokenizer(after)["input_ids"]
            logits = reference(torch.tensor([[*head, *tail]])).logits[0]
            own = torch.log_softmax(logits, -1)[len(head) - 1 : -1].gather(1, torch.tensor(tail)[:, None])
            assert total == pytest.approx(float(own.detach().sum()), abs=1e-4)
            assert length == len(tail)


def test_a_prompt_that_is_too_long_loses_its_beginning(tmp_path: Path) -> None:
    policy, tokenizer = load_policy(write_model(tmp_path / "short", 0, context_length=32))
    subject = asked(policy, tokenizer)
    long = "The red cat sleeps. " * 20 + "A blue dog"
    tokens = tokenizer(long)["input_ids"]
    (row,) = choice_logprobs(subject, [Item(id="a", pairs=((long, " barks"), (long, " at")))])
    longest = max(row["lengths"])
    assert row["cut"] == len(tokens) + longest - 32
    (response,) = sampled(subject, [Item(id="a", prompt=long)], max_tokens=8)
    assert response["cut"] == len(tokens) + 8 - 32
    with pytest.raises(DataError, match="does not fit"):
        choice_logprobs(subject, [Item(id="a", pairs=((long, " barks" * 40), (long, " at")))])


def test_a_cut_prompt_keeps_what_the_tokenizer_puts_in_front(tmp_path: Path) -> None:
    """By hand: begin-of-text and the last 28 tokens of the prompt, then the choice."""
    tokenizer: Any = train_tokenizer(TEXT, vocabulary_size=400, context_length=32)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.eos_token_id)]
    )
    model = new_gpt2(tokenizer, layers=1, width=32, heads=2, context_length=32, seed=2)
    (choice,) = encode_after(tokenizer, ["A dog"], [" at"])
    long = "The red cat sleeps. " * 20 + "A dog"
    (whole,) = encode(tokenizer, [long])
    (row,) = choice_logprobs(asked(model, tokenizer), [Item(id="a", pairs=((long, " at"),))])
    assert row["cut"] == len(whole) + len(choice) - 32
    kept = [whole[0], *whole[-(32 - len(choice) - 1) :], *choice]
    assert len(kept) == 32
    with torch.no_grad():
        logits = plain(model)(torch.tensor([kept])).logits[0, 31 - len(choice) : -1]
    total = float(torch.log_softmax(logits, -1).gather(1, torch.tensor(choice)[:, None]).sum())
    assert row["logprobs"][0] == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("from_file", [False, True])
def test_under_a_chat_template_a_choice_is_the_assistants_answer(from_file: bool) -> None:
    """The tokens of the rendered chat with the choice in it; a sentence without a prompt stays plain text.

    It is the same whether the template is the tokenizer's own or a file's.
    """
    tokenizer: Any = chat_tokenizer()
    model = tiny_gpt2(vocabulary=128)
    without: Any = chat_tokenizer()
    without.chat_template = None
    given: tuple[Any, str] = (without, tokenizer.chat_template) if from_file else (tokenizer, "chat")
    subject = asked(model, given[0], template=given[1])
    items = [Item(id="a", prompt="w1", pairs=(("w1 w2", " w3"), ("w1 w2", " w4 w5"))), Item(id="b", pairs=(("", "w6 w7"),))]
    chat, bare = choice_logprobs(subject, items)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "w1 w2"}], add_generation_prompt=True, tokenize=False)
    head = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    for tail, total in zip(([3], [4, 5]), chat["logprobs"], strict=True):
        with torch.no_grad():
            logits = plain(model)(torch.tensor([[*head, *tail]])).logits[0, len(head) - 1 : -1]
        own = float(torch.log_softmax(logits, -1).gather(1, torch.tensor(tail)[:, None]).sum())
        assert total == pytest.approx(own, abs=1e-4)
    with torch.no_grad():
        logits = plain(model)(torch.tensor([[END, 6, 7]])).logits[0, :-1]
    own = float(torch.log_softmax(logits, -1).gather(1, torch.tensor([[6], [7]])).sum())
    assert bare["logprobs"][0] == pytest.approx(own, abs=1e-4)


def test_examples_that_all_prompts_begin_with_are_computed_once(models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    policy, tokenizer = load_policy(models[0])
    subject = asked(policy, tokenizer)
    examples = "Question: who paints a house? Answer: the man. " * 6
    queries = ["The red cat", "A blue dog barks", "The red dog", "Yes"]
    items = [
        Item(id=query, pairs=tuple((examples + query, choice) for choice in (" sleeps.", " barks at night", " is sold")))
        for query in queries
    ]
    alone = [choice_logprobs(subject, [item])[0] for item in items]
    sizes: list[int] = []
    pack_shared = asking_models.pack_shared

    def counting(heads: Any, tails: Any) -> Any:
        sizes.append(sum(map(len, heads)) + sum(len(tail) for own in tails for tail in own))
        return pack_shared(heads, tails)

    monkeypatch.setattr(asking_models, "pack_shared", counting)
    together = choice_logprobs(subject, items)
    for one, other in zip(alone, together, strict=True):
        assert (one["lengths"], one["id"]) == (other["lengths"], other["id"])
        assert other["logprobs"] == pytest.approx(one["logprobs"], abs=1e-4)
    (length,) = {len(tokenizer(examples)["input_ids"])}
    assert sizes[0] < 2 * length
    # Prompts that have nothing in common are not joined, and an empty beginning is no mistake.
    monkeypatch.setattr(asking_models, "_TOKENS_PER_ROW", 150)
    few = choice_logprobs(subject, [*items, Item(id="other", pairs=(("They sold it", " in May"), ("They sold it", " at")))])
    assert [row["logprobs"] for row in few[:4]] == [pytest.approx(row["logprobs"], abs=1e-4) for row in alone]
    rows = choice_logprobs(subject, items)
    assert [row["logprobs"] for row in rows] == [pytest.approx(row["logprobs"], abs=1e-4) for row in alone]
