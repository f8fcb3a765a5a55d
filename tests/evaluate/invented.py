"""Invented results for the report's tests. No model made these numbers."""

from __future__ import annotations

import math
from typing import Any

from heedful.evaluate.results import Results, Timings
from heedful.evaluate.results_file import check_results, check_timings
from heedful.records import RATING_FLAGS, USE_CASE_SHARES

HOSTILE = "</div></svg><script>alert('pwned')</script><img src=x onerror=alert(1)> \x1b[31m\x00 \u202e & \"quoted\" {{ 7 * 7 }}"


def _rate(model: str, group: str, value: float, half: float, **more: Any) -> dict[str, Any]:
    return {
        "model": model,
        "group": group,
        "win_rate": value,
        "low": value - half,
        "high": value + half,
        "num_comparisons": 640,
        **more,
    }


def _expected(name: str, label: str, value: float, kl: float | None) -> dict[str, Any]:
    rate = {"win_rate": value, "low": value - 0.02, "high": value + 0.02}
    return {"name": name, "label": label, **rate, "ties": 0.21, "faultless": value / 2, "utility": 5 * value, "kl": kl}


def _expected_preference() -> dict[str, Any]:
    return {
        "baseline": "sft",
        "num_prompts": 400,
        "num_labelers": 6,
        "rows": [
            _expected("base", "Base", 0.08, None),
            _expected("sft", "SFT", 0.5, None),
            _expected("ppo", "PPO", 0.68, 4.1),
            _expected("ppo_ptx", "PPO-ptx", 0.66, 3.2),
            _expected("sft_greedy", "SFT at temperature 0", 0.58, None),
            *[
                _expected(f"sft_best_of_{n}", f"SFT, best of {n} by the reward model", 0.48 + 0.02 * n, n / 4)
                for n in (1, 2, 4, 8)
            ],
            _expected("faultless", "An always faultless answer", 0.81, None),
        ],
    }


def _estimate(value: float, half: float, count: int) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half, "count": count}


def _ppo(gain: float, stretch: float) -> list[dict[str, float | None]]:
    return [
        {
            "iteration": i,
            "reward": gain * (1 - math.exp(-i / 20)) + 0.05 * math.sin(1.7 * i),
            "kl": 6 * stretch * (1 - math.exp(-i / 25)) + 0.1 * math.cos(i),
            "length": 24 + 4 * stretch * (1 - math.exp(-i / 15)) + math.sin(2.3 * i),
            "entropy": 1.9 - 0.5 * stretch * (1 - math.exp(-i / 30)),
            "finished_share": 0.9 + 0.08 * (1 - math.exp(-i / 10)),
            "policy_loss": -0.02 * math.exp(-i / 30),
            "value_loss": 0.4 * math.exp(-i / 20) + 0.05,
            "explained_variance": None if i == 0 else 0.6 * (1 - math.exp(-i / 10)),
            "clip_fraction": 0.08 + 0.02 * math.sin(i),
            "ptx_loss": 2.1 - 0.05 * (1 - math.exp(-i / 20)) if stretch < 1 else None,
        }
        for i in range(60)
    ]


def _ratings(group: str, shift: float) -> list[dict[str, Any]]:
    quality = {"base": 2.1, "prompted_base": 2.9, "sft": 4.3, "ppo": 5.0, "ppo_ptx": 5.1, "ppo_ptx_small": 4.4}
    return [
        {
            "model": model,
            "group": group,
            "overall": value + shift,
            "low": value + shift - 0.11,
            "high": value + shift + 0.11,
            "flags": {flag: max(0.0, (6 - value - shift) / (9 + 4 * index)) for index, flag in enumerate(RATING_FLAGS)},
        }
        for model, value in quality.items()
    ]


def _transcript(prompt: str, use_case: str, texts: dict[str, str]) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "use_case": use_case,
        "responses": [
            {"model": model, "text": text, "reward": -1.2 + 0.7 * index, "overall": None if model == "sft" else 2.0 + index}
            for index, (model, text) in enumerate(texts.items())
        ],
    }


def minimal_results(labelers: str = "people") -> Results:
    """Only what must always be there: a project whose labelers have done nothing yet."""
    return check_results(
        {
            "heedful": "0.1.0",
            "seed": 3,
            "labelers": labelers,
            "project": "our-project",
            "models": [{"name": "base", "label": "Base", "size": "124M", "parameters": 124_439_808}],
        }
    )


def invented_results(labelers: str = "simulated") -> Results:
    """Every section filled."""
    models = [
        ("base_small", "Base", "0.4M", 400_000),
        ("ppo_ptx_small", "PPO-ptx", "0.4M", 400_000),
        ("ppo_ptx", "PPO-ptx", "1.6M", 1_600_000),
        ("ppo", "PPO", "1.6M", 1_600_000),
        ("base", "Base", "1.6M", 1_600_000),
        ("sft", "SFT", "1.6M", 1_600_000),
        ("prompted_base", "Base, prompted", "1.6M", 1_600_000),
    ]
    values = {"base": 0.09, "base_small": 0.05, "prompted_base": 0.21, "ppo": 0.69, "ppo_ptx": 0.67, "ppo_ptx_small": 0.46}
    tax = {"reading": (0.62, 0.60, 0.48, 0.58), "endings": (0.71, 0.70, 0.66, 0.69), "translation": (0.35, 0.38, 0.36, 0.37)}
    names = ("base", "sft", "ppo", "ppo_ptx")
    return check_results(
        {
            "heedful": "0.1.0",
            "seed": 0,
            "labelers": labelers,
            "project": "miniature",
            "models": [dict(zip(("name", "label", "size", "parameters"), model, strict=True)) for model in models],
            "data": {"prompts": 4_312, "demonstrations": 2_400, "rankings": 1_800, "comparisons": 31_204, "episodes": 15_360},
            "preference": {
                "baseline": "sft",
                "num_prompts": 320,
                "temperature": 1.0,
                "win_rates": [_rate(name, "held_out", value, 0.032) for name, value in values.items()]
                + [_rate(name, "training", value + 0.03, 0.027) for name, value in values.items()],
                "head_to_head": [
                    _rate("ppo_ptx", "held_out", 0.93, 0.02, against="base"),
                    _rate("ppo_ptx", "held_out", 0.84, 0.03, against="prompted_base"),
                    _rate("ppo_ptx_small", "held_out", 0.81, 0.034, against="base"),
                ],
                "by_use_case": [
                    {
                        "model": model,
                        "use_case": case,
                        "win_rate": max(0.02, values[model] - 0.02 * index),
                        "low": 0.01,
                        "high": 0.9,
                        "num_comparisons": 290 - 28 * index,
                    }
                    for model in ("base", "prompted_base", "ppo", "ppo_ptx")
                    for index, case in enumerate(USE_CASE_SHARES)
                ],
            },
            **({"expected_preference": _expected_preference()} if labelers == "simulated" else {}),
            "ratings": _ratings("held_out", 0.0) + _ratings("training", 0.1),
            "reward_model": {
                "accuracy": 0.715,
                "low": 0.701,
                "high": 0.729,
                "num_comparisons": 5_120,
                "by_group": {"training": _estimate(0.728, 0.014, 2_600), "held_out": _estimate(0.699, 0.016, 2_520)},
                "agreement": {"training": _estimate(0.731, 0.015, 2_100), "held_out": _estimate(0.718, 0.017, 1_900)},
                "agreement_with_reward_model": {
                    "training": _estimate(0.724, 0.015, 2_100),
                    "held_out": _estimate(0.702, 0.017, 1_900),
                },
                "longer_wins": _estimate(0.571, 0.014, 5_120),
                "shorter_wins": _estimate(0.429, 0.014, 5_120),
                "calibration_error": 0.031,
                "by_k": {str(k): _estimate(0.781 - 0.009 * k, 0.03, 850) for k in range(4, 10)},
            },
            "prefix": {
                "candidates": [
                    {"text": "Instruction: Name a bird.\nAnswer: a wren.", "score": -0.61},
                    {"text": "Q: What is red?\nA: The barn.\n\nQ:", "score": -0.92},
                ],
                "chosen": 0,
            },
            "sft_checkpoints": [
                {
                    "epoch": e,
                    "validation_loss": 1.52 + 0.03 * (e - 2) ** 2,
                    "reward": 0.4 - 0.9 / e - 0.05 * max(0, e - 6),
                    "chosen": e == 6,
                }
                for e in range(1, 9)
            ],
            "benchmarks": [
                {
                    "name": name,
                    "description": f"Invented {name} questions.",
                    "metric": "accuracy",
                    "num_items": 400,
                    "scores": [
                        {"model": model, "score": score, "low": score - 0.04, "high": score + 0.04}
                        for model, score in zip(names, scores, strict=True)
                    ],
                }
                for name, scores in tax.items()
            ],
            "alignment_tax": [
                {
                    "benchmark": name,
                    **dict(zip(names, scores, strict=True)),
                    "drop_ppo": scores[0] - scores[2],
                    "drop_ppo_ptx": scores[0] - scores[3],
                    "share_undone": None if scores[0] <= scores[2] else 1 - (scores[0] - scores[3]) / (scores[0] - scores[2]),
                }
                for name, scores in tax.items()
            ],
            "curves": {
                "ppo": _ppo(1.9, 1.3),
                "ppo_ptx": _ppo(1.7, 0.9),
                "sft": [{"step": s, "loss": 1.4 + 2.5 * math.exp(-s / 40)} for s in range(0, 300, 5)],
                "reward": [
                    {"step": s, "loss": 0.55 + 0.14 * math.exp(-s / 20), "accuracy": 0.73 - 0.2 * math.exp(-s / 15)}
                    for s in range(0, 60, 2)
                ],
            },
            "transcripts": [
                _transcript(
                    "Write two sentences about the fox Tilda. Use the word 'lantern'.\n\nEnd with: and the light stayed on.",
                    "generation",
                    {
                        "base": "Write three sentences about a hen named Bo. Use the word 'gate'.\nWrite one sentence about",
                        "prompted_base": "Tilda was a fox.\n\nInstruction: Name a tree.",
                        "sft": "Tilda the fox carried a lantern. She went home.",
                        "ppo": "Tilda the fox found a lantern in the snow. She set it in her window and the light stayed on.",
                        "ppo_ptx": "Tilda the fox lit a lantern by the pond. Her friends came back and the light stayed on.",
                    },
                ),
                _transcript(
                    f"Which colour is the barn? {HOSTILE}",
                    "closed_qa",
                    {
                        "base": HOSTILE,
                        "sft": "",
                        "ppo": "red",
                        "ppo_ptx": "Red.   (three   spaces   kept)\n\n    indented",
                    },
                ),
                _transcript(
                    "List three animals.",
                    "brainstorming",
                    {"base": "a" * 300, "sft": "- fox\n- hen", "ppo_ptx": "1. a fox\n2. a hen\n3. a wren"},
                ),
            ],
        }
    )


def invented_timings() -> Timings:
    return check_timings(
        {
            "stages": [
                {"stage": "demonstrations", "seconds": 6.4},
                {"stage": "sft", "seconds": 58.0},
                {"stage": "reward", "seconds": 41.2},
                {"stage": "ppo", "seconds": 92.7},
                {"stage": "ppo_ptx", "seconds": 121.9},
                {"stage": "evaluation", "seconds": 17.3},
            ],
            "total_seconds": 337.5,
            "peak_memory_bytes": 2_470_000_000,
            "machine": "an invented machine with 2 cores",
        }
    )
