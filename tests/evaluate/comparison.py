"""A small comparison of two models, with hostile text in every place that users and models fill."""

from __future__ import annotations

from typing import Any

from heedful.conversation import turns_of
from heedful.evaluate.comparison_page import ComparisonPage
from heedful.evaluate.failure_modes import Marks, failure_rates
from heedful.evaluate.people_comparison import Judged, compare_by_people
from heedful.evaluate.table_14 import table_14
from heedful.records import Prompt, Ranking, Rating, Response

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "\u202e")


def judged() -> Judged:
    """Four prompts, two models, two held-out labelers; ppo is preferred on p0, p1 and p2."""
    metadata: list[dict[str, Any]] = [{"false_premise": True}, {"constraints": 2}, {"constraints": 1}, {}]
    prompts = {
        f"p{i}": Prompt(id=f"p{i}", turns=turns_of(f"Prompt {i} {HOSTILE[i % 3]}"), use_case="open_qa", metadata=metadata[i])
        for i in range(4)
    }
    responses = {
        f"p{i}-{model}": Response(
            id=f"p{i}-{model}", prompt_id=f"p{i}", model=model, text=f"Answer {model} {i} {HOSTILE[i % 3]}"
        )
        for i in range(4)
        for model in ("sft", "ppo")
    }
    rankings = [
        Ranking(
            id=f"k{i}",
            prompt_id=f"p{i}",
            response_ids=(f"p{i}-ppo", f"p{i}-sft"),
            ranks=(1, 2) if i < 3 else (2, 1),
            labeler=f"eva{i % 2}",
            phase="evaluation",
        )
        for i in range(4)
    ]

    def rating(response: str, labeler: str, **flags: bool) -> Rating:
        return Rating(
            id=f"{response}-{labeler}",
            prompt_id=response[:2],
            response_id=response,
            labeler=labeler,
            overall=5,
            flags=flags,
            phase="evaluation",
        )

    ratings = [
        rating("p0-sft", "eva0", fails_task=True),
        rating("p0-sft", "eva1", fails_task=True),
        rating("p0-ppo", "eva0", fails_task=True),
        rating("p0-ppo", "eva1", fails_task=False),
        rating("p1-sft", "eva0", satisfies_constraint=True),
        rating("p1-ppo", "eva0", satisfies_constraint=False),
        rating("p2-ppo", "eva0", satisfies_constraint=True),
        rating("p2-sft", "eva0", satisfies_constraint=True),
    ]
    return Judged(
        prompts=prompts,
        responses=responses,
        rankings=rankings,
        ratings=ratings,
        groups={"eva0": "held_out", "eva1": "held_out"},
    )


def benchmark_results() -> dict[str, Any]:
    """As `heedful evaluate benchmarks` writes them; TruthfulQA has no judge."""

    def score(model: str, series: str, metric: str, value: float | None, items: int) -> dict[str, Any]:
        estimate = {"value": value, "low": value and 0.5, "high": value and 1.0, "count": items, "standard_error": 0.1}
        return {
            "model": model,
            "series": series,
            "metric": metric,
            "estimate": estimate,
            "num_items": items,
            "num_unscored": 0 if value is not None else items,
        }

    return {
        "models": ["sft", "ppo"],
        "series": [
            {"name": "rte.zero-shot", "task": "rte", "setting": "zero-shot", "items": 4, "notes": []},
            {"name": "truthfulqa.qa", "task": "truthfulqa", "setting": "qa", "items": 3, "notes": []},
        ],
        "scores": [
            score("sft", "rte.zero-shot", "accuracy", 0.5, 4),
            score("ppo", "rte.zero-shot", "accuracy", 0.75, 4),
            score("sft", "truthfulqa.qa", "true", None, 3),
            score("ppo", "truthfulqa.qa", "true", None, 3),
        ],
        "notes": [HOSTILE[0]],
    }


def page(**changes: Any) -> ComparisonPage:
    own = judged()
    values: dict[str, Any] = {
        "project": f"mine {HOSTILE[1]}",
        "title": "comparison of 2 models",
        "simulated": True,
        "people": compare_by_people(own, baseline="sft"),
        "judged": own,
        "table": table_14(benchmark_results()),
        "benchmark_models": ["sft", "ppo"],
        "benchmark_notes": [HOSTILE[0]],
        "failures": failure_rates(own, Marks(), ["sft", "ppo"]),
    }
    return ComparisonPage(**{**values, **changes})
