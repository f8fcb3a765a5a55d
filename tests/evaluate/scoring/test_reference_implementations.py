"""10,000 random cases per metric, equal to the official implementations.

SQuAD, QuAC and DROP: their official rules are no dependency of ours. The digests are of the scores that the originals gave for
these very cases: ``transformers.data.metrics.squad_metrics`` of transformers 4.57.6; ``scorer.py`` of quac.ai (its
``handle_cannot``, its maximum with one left out, its human F1); ``lm_eval.tasks.drop.utils`` of lm-eval 0.4.13. If one of the
packages is installed, its test also compares case by case. ROUGE and BLEU: against rouge-score and sacrebleu.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.evaluate.scoring.cases import NUM_CASES, digest, one_text_cases, span_cases

from heedful.evaluate.scoring import SampleScores, score_samples
from heedful.evaluate.scoring.drop import drop_scores
from heedful.evaluate.scoring.question_answers import exact_match, quac_f1, quac_human_f1, quac_references, squad_f1
from heedful.evaluate.scoring.rouge import rouge_l, rouge_n, rouge_words
from heedful.evaluate.scoring.samples import joined

SQUAD_DIGEST = "b0b3cd02fed36f364bbc68c6"
QUAC_DIGEST = "51c8d6f3f347f35339b3f79a"
DROP_DIGEST = "9217042fce87889cf4ed6950"


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pairs(scores: SampleScores, first: str, second: str) -> list[tuple[float, float]]:
    assert scores.num_scored == NUM_CASES
    return list(zip(scores.scores[first].tolist(), scores.scores[second].tolist(), strict=True))


def of_package(name: str) -> Any:
    """The module, or skip."""
    try:
        return importlib.import_module(name)
    except ImportError:
        pytest.skip(f"{name} is not installed: the digest above stands for it")


def test_squad(tmp_path: Path) -> None:
    rows = [{"response": response, "references": references} for response, references in one_text_cases(1)]
    ours = pairs(score_samples(written(tmp_path / "s.jsonl", rows), "squad_v2"), "exact", "f1")
    assert sum(exact for exact, _ in ours) == 3943
    assert digest(ours) == SQUAD_DIGEST


def test_squad_case_by_case() -> None:
    official = of_package("transformers.data.metrics.squad_metrics")
    for response, references in one_text_cases(1):
        for reference in references:
            assert exact_match(response, reference) == official.compute_exact(reference, response)
            assert squad_f1(response, reference) == official.compute_f1(reference, response)


def test_quac(tmp_path: Path) -> None:
    cases = [(response, list(references)) for response, references in one_text_cases(2, empty="CANNOTANSWER")]
    rows = [{"response": response, "references": references} for response, references in cases]
    scores = score_samples(written(tmp_path / "q.jsonl", rows), "quac")
    # References that are empty texts are ours to drop, the official script's to keep: see below.
    whole = [i for i, (_, references) in enumerate(cases) if all(reference.strip() for reference in references)]
    assert len(whole) > NUM_CASES * 0.6
    ours = []
    for response, references in cases:
        found = quac_references(references)
        ours.append((joined([quac_f1(response, one) for one in found], "leave one out"), quac_human_f1(found)))
    assert digest(ours) == QUAC_DIGEST
    place = {int(line) - 1: i for i, line in enumerate(scores.lines)}
    assert [scores.scores["unfiltered_f1"][place[i]] for i in whole] == [ours[i][0] for i in whole]


def test_drop(tmp_path: Path) -> None:
    rows = [{"response": response, "references": alternatives} for response, alternatives in span_cases(3)]
    ours = pairs(score_samples(written(tmp_path / "d.jsonl", rows), "drop"), "exact", "f1")
    assert sum(exact for exact, _ in ours) == 2585
    assert digest(ours) == DROP_DIGEST


def test_drop_case_by_case() -> None:
    official = of_package("lm_eval.tasks.drop.utils")
    for response, alternatives in span_cases(3):
        for alternative in alternatives:
            assert drop_scores(response, alternative) == official.get_metrics(response, tuple(alternative))


# rouge-score is slow where it cuts words to stems or has several references: all cases of these are for the long tests.
@pytest.mark.parametrize(
    ("stemmed", "count"), [(False, NUM_CASES), (True, 2_000), pytest.param(True, NUM_CASES, marks=pytest.mark.long)]
)
def test_rouge(stemmed: bool, count: int) -> None:
    scorer = of_package("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stemmed)
    for response, references in list(one_text_cases(4, most=15))[:count]:
        theirs = scorer.score(references[0], response)
        ours, target = rouge_words(response, stemmed=stemmed), rouge_words(references[0], stemmed=stemmed)
        assert rouge_n(ours, target, 1) == pytest.approx(theirs["rouge1"].fmeasure, abs=1e-12)
        assert rouge_n(ours, target, 2) == pytest.approx(theirs["rouge2"].fmeasure, abs=1e-12)
        assert rouge_l(ours, target) == pytest.approx(theirs["rougeL"].fmeasure, abs=1e-12)


@pytest.mark.parametrize("count", [2_000, pytest.param(NUM_CASES, marks=pytest.mark.long)])
def test_several_references_of_rouge(tmp_path: Path, count: int) -> None:
    scorer = of_package("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    cases = [(r, [one for one in refs if one.strip()]) for r, refs in one_text_cases(5, most=15)]
    cases = [(response, references or ["x y"]) for response, references in cases][:count]
    rows = [{"response": response, "references": references} for response, references in cases]
    ours = score_samples(written(tmp_path / "r.jsonl", rows), "rouge").scores["rougeL"]
    theirs = [scorer.score_multi(references, response)["rougeL"].fmeasure for response, references in cases]
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_bleu(tmp_path: Path) -> None:
    """sacrebleu computes it; what is ours is which references reach it. Here each has two, then one."""
    sacrebleu = of_package("sacrebleu")
    cases = [(response, [references[0] or "x", references[-1] or "y"]) for response, references in one_text_cases(6, most=12)]
    path = written(tmp_path / "b.jsonl", [{"response": response, "references": both} for response, both in cases])
    responses = [response for response, _ in cases]
    usable = [i for i, (_, both) in enumerate(cases) if both[0].strip() and both[1].strip()]
    assert len(usable) == NUM_CASES
    both = sacrebleu.corpus_bleu(responses, [[refs[0] for _, refs in cases], [refs[1] for _, refs in cases]]).score
    one = sacrebleu.corpus_bleu(responses, [[refs[0] for _, refs in cases]]).score
    assert score_samples(path, "bleu").means["bleu"].value == pytest.approx(both, abs=1e-9)
    assert score_samples(path, "bleu", rule="first").means["bleu"].value == pytest.approx(one, abs=1e-9)
    assert one < both
