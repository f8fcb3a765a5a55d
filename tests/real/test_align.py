"""Real human data from end to end: a base model pretrained on tales, people's demonstrations and rankings, and the report."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.align.small_project import heedful
from transformers import AutoModelForCausalLM

from heedful.evaluate.results_file import load_results
from heedful.model import load_tokenizer
from heedful.model.encoding import encode_rankings
from heedful.model.inference import reward_model_for_inference
from heedful.project.data_folder import Records
from heedful.statistics import length_rules, reward_accuracy
from heedful.training.reward import score_rankings

REAL = Path(os.environ.get("HEEDFUL_REAL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")).resolve()
SOURCES = {
    "tales": REAL / "fairytaleqa" / "sections.jsonl",
    "stories": REAL / "tinystories" / "tinystories.txt",
    "oasst": REAL / "oasst_en100" / "en_100_tree.jsonl",
    "hh-rlhf": REAL / "hh_harmless" / "pairs.jsonl.gz",
}
LIMITS: Any = {"max_prompt_tokens": 320, "max_response_tokens": 96}
STEP = "\n".join(f"{name} = {value}" for name, value in LIMITS.items())
SMALL = f"""
[sft]
epochs = 2
candidates = 2
learning_rate = 1e-3
{STEP}
[initial_policy]
epochs = 1
candidates = 1
learning_rate = 1e-3
{STEP}
[reward]
learning_rate = 5e-4
batch_size = 16
{STEP}
[ppo]
episodes = 128
batch_size = 32
minibatches = 4
learning_rate = 1e-4
value_learning_rate = 3e-4
warmup_iterations = 2
ptx_coefficient = 1.0
ptx_examples_per_episode = 1
ptx_context_length = 128
{STEP}
[evaluate]
prompts = 20
choice_prompts = 16
"""

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not all(path.is_file() for path in SOURCES.values()),
        reason=f"no real human data at {REAL}: set HEEDFUL_REAL_DATA to their folder",
    ),
]


# Every part of it is tested in small: tests/align/test_align.py, tests/real/test_import.py.
@pytest.mark.long
@pytest.mark.timeout(600)
def test_from_tales_and_human_labels_to_a_report(processes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def do(*arguments: object) -> None:
        done = heedful(processes, *arguments)
        assert done.returncode == 0, done.stderr

    text = tmp_path / "text"
    text.mkdir()
    (text / "tales.jsonl").symlink_to(SOURCES["tales"])
    (text / "stories.txt").symlink_to(SOURCES["stories"])
    shape = ("--layers", 2, "--width", 128, "--heads", 2, "--vocabulary", 2_048, "--context-length", 512)
    do("pretrain", text, "--output", tmp_path / "base", *shape, "--num-tokens", 600_000)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "base" / "metrics.jsonl").read_text().splitlines()[:-1]]
    assert losses[-1] < losses[0] - 1.5

    project = tmp_path / "project"
    do("init", project, "--base-model", tmp_path / "base" / "model")
    do("import", "oasst", SOURCES["oasst"], "--project", project)
    do("import", "hh-rlhf", SOURCES["hh-rlhf"], "--project", project)
    (project / "data" / "pretraining").symlink_to(text)
    with (project / "heedful.toml").open("a") as config:
        config.write(SMALL)
    do("align", project)

    results = load_results(project / "results.json")
    assert results["labelers"] == "people"
    assert {m["name"] for m in results["models"]} >= {"base", "prompted_base", "sft", "ppo", "ppo_ptx"}
    assert (project / "labels.sqlite").is_file()
    assert "Simulated labelers" not in (project / "report.html").read_text()
    AutoModelForCausalLM.from_pretrained(project / "runs" / "ppo_ptx-1" / "model")

    records = Records.load(project / "data")
    unseen = [r for r in records.rankings.values() if r.labeler == "hh-rlhf" and records.prompts[r.prompt_id].split != "train"]
    folder = project / "runs" / "reward-1" / "model"
    encoded, _ = encode_rankings(load_tokenizer(folder), records.prompts, records.responses, unseen, **LIMITS)
    rewards = score_rankings(reward_model_for_inference(folder, "float32"), encoded)
    scores = {i: s for r, row in zip(encoded, rewards, strict=True) for i, s in zip(r.response_ids, row, strict=True)}
    judged = [r for r in unseen if r.response_ids[0] in scores and len(set(r.ranks)) > 1]
    accuracy = reward_accuracy(judged, scores)
    rules = length_rules(judged, {i: len(records.responses[i].text) for i in scores})
    assert accuracy.count > 100
    with capsys.disabled():
        print(
            f"\nreward model on {accuracy.count} unseen HH pairs: {accuracy.value:.1%}"
            f" ({accuracy.low:.1%} to {accuracy.high:.1%});"
            f" longer wins {rules.longer.value:.1%}, shorter wins {rules.shorter.value:.1%}"
        )
    assert accuracy.value > 0.5
