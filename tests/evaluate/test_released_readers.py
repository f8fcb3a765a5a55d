"""A released folder is the same policy and reward model in `serve`, transformers 5 and 4.57, vLLM and TRL."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.evaluate.invented import invented_results
from tests.evaluate.test_model_card import finished
from tests.evaluate.test_release import change
from tests.model.chat_templates import FAMILIES as CHATS
from tests.model.read_with_other_version import read
from tests.model.saved_families import (
    CLOSE,
    GREEDY,
    assert_close,
    assert_read_by_other_version,
    assert_same,
    run_reader,
    save_family,
    save_models,
)
from tests.tiny import plain, tiny_gpt2, tiny_llama, tiny_tokenizer

from heedful.evaluate.release import release
from heedful.evaluate.results_file import save_results
from heedful.miniature.preparation import base_model_folder
from heedful.model import Sampling, generate, load_causal_model, load_scalar_model, load_tokenizer
from heedful.model.readout import score
from heedful.project.project import Project, init_project
from heedful.serve.served_models import load, sources_of

VLLM_PYTHON, TRL_PYTHON = os.environ.get("HEEDFUL_VLLM_PYTHON"), os.environ.get("HEEDFUL_TRL_PYTHON")
MODELS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "chat": lambda folder: save_family(folder, tiny_llama, CHATS["SmolLM2"], "chat"),
    "plain": lambda folder: save_family(folder, tiny_gpt2, CHATS["GPT-2, template of the user's"], "plain"),
    # The shipped base model with its own tokenizer, as if it had been trained.
    "miniature": lambda folder: save_models(folder, load_causal_model(MINIATURE, "float32"), load_tokenizer(MINIATURE)),
}
MINIATURE = base_model_folder("small")

Said = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Said]:
    """A release of each kind, and what Heedful says of its models."""
    folder = tmp_path_factory.mktemp("released")
    root, said = folder / "releases", {}
    for name, make in MODELS.items():
        made = folder / "made" / name
        said[name] = make(made)
        release(_project(folder / name, made), root / name)
        shutil.copy(made / "given.json", root / name)
    return root, said


def _project(folder: Path, made: Path) -> Project:
    """A project whose PPO-ptx and reward model are finished and evaluated."""
    base = folder / "base"
    plain(tiny_gpt2()).save_pretrained(base)
    tiny_tokenizer().save_pretrained(base)
    project = init_project(folder / "mine", base_model=str(base))
    finished(project.runs, "sft-1", parents={}, inputs={"base_model": {"path": str(base), "digest": "0123456789abcdef"}})
    finished(project.runs, "reward-1", parents={"sft": "sft-1"}, model=False)
    finished(project.runs, "ppo_ptx-1", parents={"initial": "sft-1", "reward": "reward-1"}, model=False)
    finished(project.runs, "evaluate-1", parents={"ppo_ptx": "ppo_ptx-1"}, model=False)
    change(project.runs / "ppo_ptx-1", inputs={"reward": "reward-1"})
    change(project.runs / "evaluate-1", inputs={"models": ["ppo_ptx-1"]})
    shutil.copytree(made, project.runs / "ppo_ptx-1" / "model", ignore=shutil.ignore_patterns("reward_model", "given.json"))
    shutil.copytree(made / "reward_model", project.runs / "reward-1" / "model")
    save_results(project.folder / "results.json", invented_results())
    return project


def test_serve_and_transformers_5(released: tuple[Path, Said]) -> None:
    root, said = released
    for name, ours in said.items():
        assert_same(read(root / name), ours, name)
        sources = sources_of([f"policy={root / name}", f"reward={root / name / 'reward_model'}"])
        policy, reward = (load(source, "float32") for source in sources)
        assert (policy.template_name, policy.scores, reward.scores) == ("chat" if name == "chat" else "plain", False, True)
        sampling = Sampling(max_tokens=GREEDY, temperature=0.0, stop_tokens=policy.ends)
        texts = generate(policy.model, ours["prompts"], sampling, [0] * len(ours["prompts"]))
        assert [list(text.tokens) for text in texts] == ours["greedy"], name
        given = json.loads((root / name / "given.json").read_text())["answers"]
        scores = score(reward.model, [a["prompt"] for a in given], [a["tokens"] for a in given])
        assert scores.tolist() == pytest.approx([row[-1] for row in ours["scores"]], abs=CLOSE)


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_transformers_4_57(released: tuple[Path, Said], python_with_4_57: Path) -> None:
    root, said = released
    assert_read_by_other_version(python_with_4_57, root, said)


@pytest.mark.long
@pytest.mark.timeout(1_800)
@pytest.mark.skipif(VLLM_PYTHON is None, reason="HEEDFUL_VLLM_PYTHON does not name a Python that has vLLM")
def test_vllm(released: tuple[Path, Said]) -> None:
    root, said = released
    run_reader(Path(str(VLLM_PYTHON)), "read_with_vllm.py", root)
    for name, ours in said.items():
        found = json.loads((root / name / "vllm.json").read_text())
        if name == "miniature":  # vLLM has no attention for heads 20 wide on a CPU
            assert "head_dim=20" in found["refused"]
            continue
        assert (found["prompts"], found["greedy"]) == (ours["prompts"], ours["greedy"]), name
        assert_close(found["logprobs"], ours["logprobs"], name)


@pytest.mark.long
@pytest.mark.timeout(1_800)
@pytest.mark.skipif(TRL_PYTHON is None, reason="HEEDFUL_TRL_PYTHON does not name a Python that has TRL")
def test_trl(released: tuple[Path, Said]) -> None:
    """Its SFT trains on our tokens, and our rewards are read at the end token where GRPO is told to (docs/releasing.md)."""
    root, said = released
    run_reader(Path(str(TRL_PYTHON)), "read_with_trl.py", root)
    for name, ours in said.items():
        found = json.loads((root / name / "trl.json").read_text())
        given = json.loads((root / name / "given.json").read_text())["answers"]
        whole = [answer["prompt"] + answer["tokens"] for answer in given]
        assert [tokens[: len(row)] for tokens, row in zip(found["tokens"], whole, strict=True)] == whole, name
        assert_close(found["logprobs"], ours["logprobs"], name)
        reward = load_scalar_model(root / name / "reward_model", "float32")
        offset = getattr(reward.config, "heedful_reward_offset", 0.0)
        ends = [row[-1] - offset for row in ours["scores"]]
        assert found["scores"] == pytest.approx(ends, abs=CLOSE)
        assert found["by_function"] == pytest.approx(ends, abs=CLOSE)
        # The folder alone is read at the end of TRL's own text: after ChatML's line break, or before a plain end-of-text.
        more = 1 if name == "chat" else -1
        assert [len(tokens) for tokens in found["scored"]] == [len(row) + more for row in whole]
        alone = score(reward, [row[:1] for row in found["scored"]], [row[1:] for row in found["scored"]]) - offset
        assert found["by_folder"] == pytest.approx(alone.tolist(), abs=CLOSE)
        assert float((alone - torch.tensor(ends)).abs().max()) > 0.1
