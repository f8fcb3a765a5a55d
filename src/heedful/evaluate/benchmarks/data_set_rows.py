"""Reads the rows of each data set: one reader for each form in which a set was published."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from heedful.errors import DataError
from heedful.evaluate.benchmarks.benchmark_data import (
    Row,
    cells_of,
    label_of,
    listed,
    number_of,
    text_of,
    texts_of,
    whole_json,
)
from heedful.evaluate.scoring.cells import NotScored, drop_answer
from heedful.evaluate.scoring.question_answers import CANNOT_ANSWER
from heedful.project.files import read_text

# ---------------------------------------------------------------------------------------------------- bias and toxicity


def winogender_rows(path: Path) -> list[Row]:
    """Read pairs of sentences that differ in "he" and "she": the 120 templates that name a participant, not "someone" (D.2).

    The file is ``all_sentences.tsv`` with identifiers such as ``technician.customer.1.male.txt``.
    """
    found: dict[str, dict[str, str]] = {}
    for where, cells in cells_of(path):
        parts = text_of(cells, where, "sentid").removesuffix(".txt").split(".")
        if len(parts) != 4 or parts[3] not in ("male", "female", "neutral"):
            raise DataError(
                "a sentence has an unknown identifier",
                expected="occupation.participant.answer.gender.txt",
                got=repr(cells.get("sentid")),
                where=where,
            )
        if parts[1] != "someone":
            found.setdefault(".".join(parts[:3]), {})[parts[3]] = text_of(cells, where, "sentence")
    pairs = {name: forms for name, forms in found.items() if forms.keys() >= {"male", "female"}}
    if lonely := sorted(found.keys() - pairs.keys()):
        raise DataError("a sentence has no counterpart", expected="a male and a female form of each", got=lonely[0], where=path)
    return [{"id": name, "sentences": (forms["male"], forms["female"])} for name, forms in pairs.items()]


def crows_pairs_rows(path: Path) -> list[Row]:
    """Read pairs of sentences: the more and the less stereotyping one."""
    return [
        {
            "id": str(cells.get("", number)),
            "sentences": (text_of(cells, where, "sent_more"), text_of(cells, where, "sent_less")),
            "bias_type": str(cells.get("bias_type", "")),
        }
        for number, (where, cells) in enumerate(cells_of(path))
    ]


def toxicity_prompt_rows(path: Path) -> list[Row]:
    """Read prompts of RealToxicityPrompts with Perspective's toxicity; None if it gave none."""
    rows: list[Row] = []
    for number, (where, cells) in enumerate(cells_of(path)):
        prompt = cells.get("prompt")
        prompt = prompt if isinstance(prompt, dict) else {"text": prompt, "toxicity": cells.get("toxicity")}
        toxicity = prompt.get("toxicity")
        rows.append(
            {
                "id": str(number),
                "text": text_of(prompt, where, "text"),
                "toxicity": None if toxicity in (None, "") else number_of(prompt, where, "toxicity"),
            }
        )
    return rows


def truthfulqa_rows(path: Path) -> list[Row]:
    """Read questions of TruthfulQA with the answers that people accept and refuse (for judges, not for models)."""
    rows: list[Row] = []
    for number, (where, cells) in enumerate(cells_of(path)):
        rows.append(
            {
                "id": str(number),
                "question": text_of(cells, where, "Question", "question"),
                "right": _answers(cells, where, "Correct Answers", "correct_answers"),
                "wrong": _answers(cells, where, "Incorrect Answers", "incorrect_answers"),
            }
        )
    return rows


def _answers(cells: Mapping[str, Any], where: str, *names: str) -> list[str]:
    for name in names:
        if isinstance(cells.get(name), list):
            return [one.strip() for one in texts_of(cells, where, name)]
    return [one.strip() for one in text_of(cells, where, *names).split(";") if one.strip()]


# ---------------------------------------------------------------------------------------------------- reading


def drop_rows(path: Path) -> list[Row]:
    """Read questions of DROP: ``drop_dataset_dev.json`` as published, or the hub's table. Answers are lists of spans."""
    if path.suffix == ".json" and isinstance(whole := whole_json(path), dict):
        with _as_published(path) as where:
            return [
                {
                    "id": str(pair.get("query_id", f"{passage_id}-{number}")),
                    "passage_id": passage_id,
                    "passage": text_of(entry, where, "passage"),
                    "question": text_of(pair, where, "question"),
                    "answers": [_drop_spans(one, where) for one in (pair["answer"], *pair.get("validated_answers", ()))],
                }
                for passage_id, entry in _dictionary(whole, path).items()
                for number, pair in enumerate(entry["qa_pairs"])
            ]
    rows: list[Row] = []
    for number, (where, cells) in enumerate(cells_of(path)):
        spans = cells.get("answers_spans")
        if not isinstance(spans, dict) or not spans.get("spans"):
            raise DataError("a row has no answer", expected="answers_spans: {spans: [...]}", got=repr(spans)[:80], where=where)
        rows.append(
            {
                "id": str(cells.get("query_id", number)),
                "passage_id": str(cells.get("section_id", "")),
                "passage": text_of(cells, where, "passage"),
                "question": text_of(cells, where, "question"),
                "answers": [texts_of(spans, where, "spans")],
            }
        )
    return rows


def _drop_spans(answer: Mapping[str, Any], where: str) -> list[str]:
    try:
        return drop_answer(answer)
    except NotScored as reason:
        raise DataError("an answer cannot be used", expected="DROP's answer", got=str(reason), where=where) from None


@contextmanager
def _as_published(path: Path) -> Iterator[str]:
    """Give the file's name while its nested JSON is read. Raises DataError for any structure but the published one."""
    try:
        yield str(path)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise DataError(
            f"{path.name} is not the data set's file",
            expected="the structure in which it was published",
            got=f"{type(error).__name__}: {error}",
            where=path,
            next_step="fetch it again",
        ) from None


def squad_rows(path: Path) -> list[Row]:
    """Read questions of SQuAD 2.0 with the passage's earlier ones (``before``), from ``dev-v2.0.json`` or a table."""
    if path.suffix == ".json" and isinstance(whole := whole_json(path), dict):
        with _as_published(path) as where:
            flat = [
                {
                    "id": text_of(question, where, "id"),
                    "title": text_of(article, where, "title"),
                    "passage": text_of(paragraph, where, "context"),
                    "question": text_of(question, where, "question").strip(),
                    "answers": [text_of(answer, where, "text") for answer in question["answers"]],
                }
                for article in _entries(whole, path)
                for paragraph in article["paragraphs"]
                for question in paragraph["qas"]
            ]
    else:
        flat = [
            {
                "id": text_of(cells, where, "id"),
                "title": text_of(cells, where, "title"),
                "passage": text_of(cells, where, "context"),
                "question": text_of(cells, where, "question").strip(),
                "answers": _squad_answers(cells, where),
            }
            for where, cells in cells_of(path)
        ]
    return with_earlier_questions(flat, of=lambda row: (row["title"], row["passage"]))


def _squad_answers(cells: Mapping[str, Any], where: str) -> list[str]:
    found = listed(cells.get("answers"))
    if found and isinstance(found[0], dict) and isinstance(found[0].get("text"), list):
        return texts_of(found[0], where, "text")
    return [text_of(one if isinstance(one, dict) else {"text": one}, where, "text") for one in found if one is not None]


def quac_rows(path: Path) -> list[Row]:
    """Read questions of QuAC with the dialogue so far (``before``), from ``val_v0.2.json``."""
    with _as_published(path) as where:
        flat = [
            {
                "id": text_of(question, where, "id"),
                "title": " - ".join(part for part in (article.get("title"), article.get("section_title")) if part),
                "passage": text_of(paragraph, where, "context").removesuffix(CANNOT_ANSWER).rstrip(),
                "question": text_of(question, where, "question").strip(),
                "answers": [text_of(answer, where, "text") for answer in question["answers"]],
                "said": text_of(question.get("orig_answer") or question["answers"][0], where, "text"),
                "dialogue": text_of(paragraph, where, "id"),
            }
            for article in _entries(whole_json(path), path)
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    return with_earlier_questions(flat, of=lambda row: row["dialogue"])


def with_earlier_questions(rows: list[Row], *, of: Callable[[Row], object]) -> list[Row]:
    """Add to each row the earlier rows of its passage or dialogue (``before``), and whether it is the last (``is_last``)."""
    groups: dict[object, list[Row]] = {}
    for row in rows:
        groups.setdefault(of(row), []).append(row)
    for number, group in enumerate(groups.values()):
        for place, row in enumerate(group):
            row |= {"before": tuple(group[:place]), "is_last": place == len(group) - 1, "passage_id": str(number)}
    return rows


def _dictionary(whole: object, path: Path) -> dict[str, Any]:
    if not isinstance(whole, dict):
        raise DataError(
            f"{path.name} is not the data set's file", expected="a JSON object", got=type(whole).__name__, where=path
        )
    return whole


def _entries(whole: object, path: Path) -> list[Any]:
    data = _dictionary(whole, path).get("data")
    if not isinstance(data, list):
        raise DataError(f"{path.name} is not the data set's file", expected='a list under "data"', got="none", where=path)
    return data


# ---------------------------------------------------------------------------------------------------- choices


def hellaswag_rows(path: Path) -> list[Row]:
    """Read beginnings with four endings: ``hellaswag_val.jsonl`` as published, or rows with query, choices and gold."""
    rows: list[Row] = []
    for number, (where, cells) in enumerate(cells_of(path)):
        if "choices" in cells:
            rows.append(_query_row(number, where, cells))
            continue
        second = text_of(cells, where, "ctx_b")
        beginning = f"{text_of(cells, where, 'ctx_a')} {second[:1].upper()}{second[1:]}"
        endings = [_without_marks(one) for one in texts_of(cells, where, "endings")]
        rows.append(
            {
                "id": str(cells.get("ind", number)),
                "query": _without_marks(f"{text_of(cells, where, 'activity_label')}: {beginning}"),
                "choices": endings,
                "label": label_of(cells, where, "label", {str(place): place for place in range(len(endings))}),
            }
        )
    return rows


def _without_marks(text: str) -> str:
    """Remove WikiHow's marks such as [header] and [title]; [title] begins a sentence."""
    return " ".join(re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).split())


def query_rows(path: Path) -> list[Row]:
    """Read rows with query, choices and gold: mosaicml/llm-foundry's format for ARC, BoolQ and other multiple choice."""
    return [_query_row(number, where, cells) for number, (where, cells) in enumerate(cells_of(path))]


def _query_row(number: int, where: str, cells: Mapping[str, Any]) -> Row:
    choices = texts_of(cells, where, "choices")
    if len(choices) < 2:
        raise DataError("a row has no choices", expected="at least two", got=repr(cells.get("choices"))[:80], where=where)
    return {
        "id": str(number),
        "query": text_of(cells, where, "query"),
        "choices": choices,
        "label": label_of(cells, where, "gold", {str(place): place for place in range(len(choices))}),
    }


def winograd_rows(path: Path) -> list[Row]:
    """Read Winograd sentences with the pronoun replaced by each candidate: context_options, continuation and gold."""
    rows: list[Row] = []
    for number, (where, cells) in enumerate(cells_of(path)):
        options = texts_of(cells, where, "context_options")
        rows.append(
            {
                "id": str(number),
                "contexts": options,
                "continuation": text_of(cells, where, "continuation"),
                "label": label_of(cells, where, "gold", {str(place): place for place in range(len(options))}),
            }
        )
    return rows


def rte_rows(path: Path) -> list[Row]:
    """Read premises and hypotheses: SuperGLUE's ``val.jsonl``, GLUE's table, or the hub's with labels 0 and 1."""
    return [
        {
            "id": str(cells.get("idx", cells.get("index", number))),
            "premise": text_of(cells, where, "premise", "sentence1"),
            "hypothesis": text_of(cells, where, "hypothesis", "sentence2"),
            "label": label_of(cells, where, "label", {"entailment": 0, "not_entailment": 1, "0": 0, "1": 1}),
        }
        for number, (where, cells) in enumerate(_glue_cells(path))
    ]


def sst_rows(path: Path) -> list[Row]:
    """Read snippets with their sentiment: GLUE's ``dev.tsv``, lines such as "1 a stirring film", or the hub's table."""
    if path.suffix == ".txt":
        rows: list[Row] = []
        for number, line in enumerate(read_text(path).removesuffix("\n").split("\n")):
            label, _, text = line.partition(" ")
            if label not in ("0", "1") or not text.strip():
                raise DataError(
                    "a line has no label",
                    expected="0 or 1, a space and a text",
                    got=repr(line[:60]),
                    where=f"{path}:{number + 1}",
                )
            rows.append({"id": str(number), "text": text.strip(), "label": int(label)})
        return rows
    return [
        {
            "id": str(number),
            "text": text_of(cells, where, "sentence", "text").strip(),
            "label": label_of(cells, where, "label", {"0": 0, "1": 1, "negative": 0, "positive": 1}),
        }
        for number, (where, cells) in enumerate(_glue_cells(path))
    ]


def _glue_cells(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Read rows of a table. GLUE's own tables have tabs between cells, and quotation marks are plain characters."""
    if path.suffix != ".tsv":
        yield from cells_of(path)
        return
    header, *lines = read_text(path).split("\n")
    names = header.rstrip("\r").split("\t")
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        cells = line.rstrip("\r").split("\t")
        if len(cells) != len(names):
            raise DataError(
                f"a row of {path.name} cannot be read",
                expected=f"{len(names)} cells, as in the header",
                got=f"{len(cells)} cells",
                where=f"{path}:{number}",
                next_step="fetch the file again, or correct the row",
            )
        yield f"{path}:{number}", dict(zip(names, cells, strict=True))


def wsc_rows(path: Path) -> list[Row]:
    """Read passages with a pronoun and a noun: SuperGLUE's ``val.jsonl`` or the hub's table."""
    rows: list[Row] = []
    for number, (where, cells) in enumerate(cells_of(path)):
        target = cells.get("target") if isinstance(cells.get("target"), dict) else cells
        assert isinstance(target, dict)
        rows.append(
            {
                "id": str(cells.get("idx", number)),
                "text": text_of(cells, where, "text"),
                "noun": text_of(target, where, "span1_text"),
                "pronoun": text_of(target, where, "span2_text"),
                "pronoun_word": int(number_of(target, where, "span2_index")),
                "label": label_of(cells, where, "label", {"false": 0, "true": 1, "0": 0, "1": 1}),
            }
        )
    return rows


# ---------------------------------------------------------------------------------------------------- translation, summaries


def translation_rows(path: Path) -> list[Row]:
    """Read French and English sentences: two files beside each other (``.fr`` and ``.en`` in their names), or a table."""
    if path.suffix in (".txt", ".sgm"):
        other = path.with_name(path.name.replace("source", "reference"))
        french, english = _lines(path), _lines(other)
        if len(french) != len(english):
            raise DataError(
                "source and reference do not belong together",
                expected="as many lines in both",
                got=f"{len(french)} and {len(english)}",
                where=path.parent,
            )
        pairs = zip(french, english, strict=True)
        return [{"id": str(number), "french": fr, "english": en} for number, (fr, en) in enumerate(pairs)]
    rows: list[Row] = []
    for number, (where, cells) in enumerate(cells_of(path)):
        pair = cells.get("translation")
        pair = pair if isinstance(pair, dict) else cells
        rows.append(
            {
                "id": str(number),
                "french": text_of(pair, where, "fr", "french").strip(),
                "english": text_of(pair, where, "en", "english").strip(),
            }
        )
    return rows


def _lines(path: Path) -> list[str]:
    text = read_text(path)
    if path.suffix == ".sgm":
        return [html.unescape(found).strip() for found in re.findall(r"<seg[^>]*>(.*?)</seg>", text, re.DOTALL)]
    return [line.strip() for line in text.removesuffix("\n").split("\n")]


def cnn_dm_rows(path: Path) -> list[Row]:
    """Read news articles with their highlights."""
    return [
        {
            "id": str(cells.get("id", number)),
            "text": text_of(cells, where, "article").strip(),
            "summary": text_of(cells, where, "highlights").strip(),
        }
        for number, (where, cells) in enumerate(cells_of(path))
    ]


def tldr_rows(path: Path) -> list[Row]:
    """Read posts with their authors' summaries: the Webis corpus."""
    return [
        {
            "id": str(cells.get("id", number)),
            "text": text_of(cells, where, "content").strip(),
            "summary": text_of(cells, where, "summary").strip(),
        }
        for number, (where, cells) in enumerate(cells_of(path))
    ]
