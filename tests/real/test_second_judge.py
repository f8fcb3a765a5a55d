"""The table of a second reward model: its win rates by hand, with invented scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.real.second_judge import Answers, best_of, ended, samples_of, wins

from heedful.records import Response


def answers(texts: Mapping[str, str], *, finished: bool = True) -> Answers:
    return {prompt: Response(id=text, prompt_id=prompt, text=text, finished=finished) for prompt, text in texts.items()}


def length(responses: Sequence[Response]) -> list[float]:
    """A judge that likes long answers, and finished ones a little more."""
    return [len(response.text) + 0.5 * bool(response.finished) for response in responses]


def test_a_win_is_a_higher_score_than_each_other_answer_to_the_same_prompt_and_a_tie_is_half() -> None:
    others = [answers({"p": "aa", "q": "aaaa"}), answers({"p": "aaa", "q": "aaaa"})]
    # p: above "aa", equal to "aaa": 0.75. q: below both: 0.
    assert wins([answers({"q": "a", "p": "bbb"})], others, length).startswith("37.5% ")
    # A second group that wins all four: (0.375 + 1) / 2.
    assert wins([answers({"p": "bbb", "q": "a"}), answers({"p": "bbbbb", "q": "bbbbb"})], others, length).startswith("68.8% ")


def test_as_if_ended_only_the_text_counts() -> None:
    cut, others = [answers({"p": "aa"}, finished=False)], [answers({"p": "bb"})]
    assert wins(cut, others, length).startswith("0.0% ")
    assert wins(cut, others, ended(length)).startswith("50.0% ")


def test_the_best_of_several_samples_is_chosen_by_reward_prompt_by_prompt(tmp_path: Path) -> None:
    for number, (p, q) in enumerate([(1.0, 0.0), (0.5, 2.0), (-1.0, 1.0)], start=1):
        rows = [
            {"prompt_id": name, "text": f"{name}{number}", "finished": number == 2, "reward": reward, "tokens": 1}
            for name, reward in (("p", p), ("q", q))
        ]
        (tmp_path / f"samples-{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = samples_of(tmp_path)
    of_all = {prompt: (one.text, one.finished) for prompt, one in best_of(samples).items()}
    assert of_all == {"p": ("p1", False), "q": ("q2", True)}
    assert {prompt: one.text for prompt, one in best_of(samples[2:]).items()} == {"p": "p3", "q": "q3"}
