"""A real chat model with its own template, from `heedful init` over people's labels to a conversation with the result."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from heedful.evaluate.results_file import load_results
from heedful.model.doctor import examine
from heedful.model.doctor_template import examine_template
from heedful.project.project import Project

REAL = Path(os.environ.get("HEEDFUL_REAL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")).resolve()
MODEL = Path(os.environ.get("HEEDFUL_REAL_MODEL", "no model"))
OASST, HH = REAL / "oasst_en100" / "en_100_tree.jsonl", REAL / "hh_harmless" / "pairs.jsonl.gz"
STEP = "max_prompt_tokens = 96\nmax_response_tokens = 16\n"
SMALL = f"""
[sft]
epochs = 1
candidates = 1
learning_rate = 1e-5
{STEP}
[initial_policy]
epochs = 1
candidates = 1
learning_rate = 1e-5
{STEP}
[reward]
learning_rate = 1e-5
batch_size = 32
{STEP}
[ppo]
episodes = 16
batch_size = 8
minibatches = 2
learning_rate = 1e-6
value_learning_rate = 1e-5
warmup_iterations = 1
{STEP}
[evaluate]
prompts = 4
choice_prompts = 2
"""

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not (MODEL / "config.json").is_file(), reason="no real chat model: set HEEDFUL_REAL_MODEL to SmolLM2-135M-Instruct"
    ),
]


@pytest.mark.long
@pytest.mark.timeout(1_800)
@pytest.mark.skipif(not (OASST.is_file() and HH.is_file()), reason=f"no real human data at {REAL}: set HEEDFUL_REAL_DATA")
def test_a_chat_model_is_aligned_in_its_own_format(tmp_path: Path) -> None:
    def do(*arguments: object) -> str:
        command = [sys.executable, "-m", "heedful.cli", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1_500, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    project = tmp_path / "project"
    said = do("init", project, "--base-model", MODEL)
    assert "  | Name a river.<|im_end|>" in said
    assert Project.load(project).template == "chat"
    trees, pairs = (
        tmp_path / "trees.jsonl",
        tmp_path / "pairs.jsonl",
    )  # a part of each: the test is of the path, not of the data
    trees.write_text("".join(OASST.open(encoding="utf-8").readlines()[:25]), encoding="utf-8")
    with gzip.open(HH, "rt", encoding="utf-8") as lines:
        pairs.write_text("".join(islice(lines, 120)), encoding="utf-8")
    do("import", "oasst", trees, "--project", project)
    do("import", "hh-rlhf", pairs, "--project", project)
    with (project / "heedful.toml").open("a") as config:
        config.write(SMALL)
    do("align", project)
    assert {m["name"] for m in load_results(project / "results.json")["models"]} >= {"base", "sft", "ppo"}

    folder = project / "runs" / "ppo-1" / "model"
    assert not [check for check in examine_template(folder) if check.failed]
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    ends = GenerationConfig.from_pretrained(folder).eos_token_id
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end in (ends if isinstance(ends, list) else [ends])
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**ids, max_new_tokens=40, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == end


@pytest.mark.long  # 50 s of processor time
@pytest.mark.timeout(900)
def test_the_self_check_of_a_real_chat_model() -> None:
    assert not [check for check in examine_template(MODEL) if check.failed]
    with torch.random.fork_rng():
        assert not [check for check in examine(MODEL, "bfloat16") if not check.passed]
