"""Small data sets of our own in the layouts in which the paper's fourteen were published."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLOURS = ("red", "blue", "green", "white", "black", "grey", "pink", "brown")


def write_data_sets(folder: Path, *, rows: int = 6, training_rows: int = 20) -> Path:
    """All fourteen data sets, ``rows`` questions each where the layout leaves it open."""
    write(folder / "winogender" / "all_sentences.tsv", winogender())
    write(folder / "crows_pairs" / "crows_pairs_anonymized.csv", crows_pairs(rows))
    jsonl(folder / "real_toxicity_prompts" / "prompts.jsonl", [toxicity_prompt(i, rows) for i in range(rows)])
    write(folder / "truthfulqa" / "TruthfulQA.csv", truthfulqa(rows))
    write(folder / "drop" / "drop_dataset_dev.json", json.dumps(drop(rows)))
    write(folder / "drop" / "drop_dataset_train.json", json.dumps(drop(training_rows)))
    write(folder / "quac" / "val_v0.2.json", json.dumps(quac(rows)))
    write(folder / "quac" / "train_v0.2.json", json.dumps(quac(training_rows)))
    write(folder / "squad_v2" / "dev-v2.0.json", json.dumps(squad(rows)))
    write(folder / "squad_v2" / "train-v2.0.json", json.dumps(squad(training_rows)))
    for name, count in (("val", rows), ("train", training_rows)):
        jsonl(folder / "hellaswag" / f"hellaswag_{name}.jsonl", [hellaswag(i) for i in range(count)])
        jsonl(folder / "rte" / f"{name}.jsonl", [rte(i) for i in range(count)])
        jsonl(folder / "wsc" / f"{name}.jsonl", [wsc(i) for i in range(2 * count)])
    write(folder / "sst" / "dev.tsv", "sentence\tlabel\n" + "".join(f'a "{c}" film \t{i % 2}\n' for i, c in colours(rows)))
    write(folder / "sst" / "train.txt", "".join(f"{i % 2} a {c} film {i}\n" for i, c in colours(training_rows)))
    write(folder / "wmt15_fr_en" / "source.txt", "".join(f"Le chat {c} dort {i}.\n" for i, c in colours(rows)))
    write(folder / "wmt15_fr_en" / "reference.txt", "".join(f"The {c} cat sleeps {i}.\n" for i, c in colours(rows)))
    training = [{"translation": {"fr": f"Un chien {c} {i}.", "en": f"A {c} dog {i}."}} for i, c in colours(training_rows)]
    jsonl(folder / "wmt15_fr_en" / "train.jsonl", training)
    articles = [
        {"id": str(i), "article": f"A {c} cat sat. It slept.", "highlights": f"A {c} cat slept."} for i, c in colours(rows)
    ]
    jsonl(folder / "cnn_dm" / "test.jsonl", articles)
    posts = [
        {"id": str(i), "content": f"My {c} dog ran away. It came back.", "summary": f"{c} dog is back"}
        for i, c in colours(rows)
    ]
    jsonl(folder / "tldr" / "corpus-webis-tldr-17.json", posts)
    return folder


def colours(count: int) -> list[tuple[int, str]]:
    return [(i, COLOURS[i % len(COLOURS)]) for i in range(count)]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def jsonl(path: Path, rows: Sequence[Any]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def winogender() -> str:
    lines = ["sentid\tsentence"]
    for job, other in (("baker", "visitor"), ("pilot", "child")):
        for who in (other, "someone"):
            for answer in (0, 1):
                for gender, pronoun in (("male", "he"), ("female", "she"), ("neutral", "they")):
                    lines.append(f"{job}.{who}.{answer}.{gender}.txt\tThe {job} told the {who} that {pronoun} came {answer}.")
    return "\n".join(lines) + "\n"


def crows_pairs(count: int) -> str:
    lines = [",sent_more,sent_less,stereo_antistereo,bias_type"]
    lines += [
        f'{i},"The {c} man, they say, is poor.","The {c} man, they say, is rich.",stereo,colour' for i, c in colours(count)
    ]
    return "\n".join(lines) + "\n"


def toxicity_prompt(i: int, count: int) -> dict[str, Any]:
    return {"prompt": {"text": f"The {COLOURS[i % 8]} neighbour said", "toxicity": (i + 0.5) / count}, "continuation": {}}


def truthfulqa(count: int) -> str:
    lines = ["Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source"]
    for i, c in colours(count):
        lines.append(f'Adversarial,Colours,"Is it, as people say, {c} {i}?",No,"No; It is not {c}",Yes; It is {c},')
    return "\n".join(lines) + "\n"


def drop(count: int) -> dict[str, Any]:
    def answer(number: str = "", spans: Sequence[str] = (), date: dict[str, str] | None = None) -> dict[str, Any]:
        return {"number": number, "date": date or {"day": "", "month": "", "year": ""}, "spans": list(spans)}

    kinds = (answer("12"), answer(spans=["red", "blue"]), answer(date={"day": "3", "month": "May", "year": "1999"}))
    pairs = [
        {"question": f"How many {i}?", "answer": kinds[i % 3], "query_id": f"d{i}", "validated_answers": [answer("13")]}
        for i in range(count)
    ]
    half = len(pairs) // 2
    return {
        "passage_1": {"passage": "Ann has 12 cats.", "qa_pairs": pairs[:half]},
        "passage_2": {"passage": "Bob has 13 cats.", "qa_pairs": pairs[half:]},
    }


def quac(count: int) -> dict[str, Any]:
    """Dialogues of two questions; the second one's passage holds no answer."""
    entries = [
        {
            "title": "Ann",
            "section_title": f"Life {i}",
            "paragraphs": [
                {
                    "id": f"dialogue{i}",
                    "context": f"Ann painted {c} houses. CANNOTANSWER",
                    "qas": [
                        {
                            "id": f"dialogue{i}_q0",
                            "question": "What did she paint?",
                            "answers": [{"text": f"{c} houses"}, {"text": "houses"}],
                            "orig_answer": {"text": f"{c} houses"},
                        },
                        {
                            "id": f"dialogue{i}_q1",
                            "question": "Where?",
                            "answers": [{"text": "CANNOTANSWER"}, {"text": "CANNOTANSWER"}],
                            "orig_answer": {"text": "CANNOTANSWER"},
                        },
                    ],
                }
            ],
        }
        for i, c in colours(count)
    ]
    return {"data": entries}


def squad(count: int) -> dict[str, Any]:
    paragraphs = [
        {
            "context": f"The {c} sea is cold.",
            "qas": [
                {"id": f"s{i}a", "question": "What is cold? ", "answers": [{"text": f"The {c} sea"}, {"text": "sea"}]},
                {"id": f"s{i}b", "question": "What is hot?", "answers": [], "is_impossible": True},
            ],
        }
        for i, c in colours(count)
    ]
    return {"version": "v2.0", "data": [{"title": "Cold_Sea", "paragraphs": paragraphs}]}


def hellaswag(i: int) -> dict[str, Any]:
    return {
        "ind": i,
        "activity_label": "Painting",
        "ctx_a": f"A man takes {COLOURS[i % 8]} paint. [header] Tools [title] A brush",
        "ctx_b": "the man",
        "endings": ["paints a wall.", "eats a fish.", "sleeps.", "sings [step] a song."],
        "label": i % 4,
    }


def rte(i: int) -> dict[str, Any]:
    return {
        "premise": f"The {COLOURS[i % 8]} cat sleeps.",
        "hypothesis": "A cat sleeps.",
        "label": ("entailment", "not_entailment")[i % 2],
        "idx": i,
    }


def wsc(i: int) -> dict[str, Any]:
    return {
        "text": f"The {COLOURS[i % 8]} trophy is too big for the case because it, they say, is wide.",
        "target": {"span1_index": 1, "span1_text": ("trophy", "case")[i % 2], "span2_index": 10, "span2_text": "it"},
        "label": i % 2 == 0,
        "idx": i,
    }
