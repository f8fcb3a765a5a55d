"""Saved policies and reward models of every family, plain and chat, say the same in transformers 4.57 and 5 and in vLLM.

HEEDFUL_TRANSFORMERS_4_PYTHON and HEEDFUL_VLLM_PYTHON name the Pythons of environments that have them (docs/families.md).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.model import saved_families
from tests.model.read_with_other_version import read
from tests.model.saved_families import assert_close, assert_read_by_other_version, assert_same, run_reader

VLLM_PYTHON = os.environ.get("HEEDFUL_VLLM_PYTHON")
NO_VLLM = {"tiny_qwen2": "Sliding window for some but all layers is not supported"}
"""What vLLM 0.32 refuses on a CPU, with words of its refusal; docs/families.md says so."""

Said = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Said]:
    root = tmp_path_factory.mktemp("families")
    return root, saved_families.save_all(root)


def test_plain_transformers_5(saved: tuple[Path, Said]) -> None:
    root, said = saved
    for name, ours in said.items():
        found = read(root / name)
        assert_same(found, ours, name)
        # The comparisons mean something: no answer is sure, and scores differ from token to token.
        assert min(map(min, found["logprobs"])) < -1.0
        assert float(np.std(found["scores"][0])) > 0.05


def test_the_folders_hold_the_names_that_4_57_needs(saved: tuple[Path, Said]) -> None:
    """What can be seen without 4.57: it ignores version 5's own names without a word."""
    root, said = saved
    for name in said:
        for folder in (root / name, root / name / "reward_model"):
            config = json.loads((folder / "config.json").read_text())
            assert config["torch_dtype"] == "float32", folder
            rope = config.get("rope_parameters")
            if rope is not None:
                theta = rope.get("full_attention", rope)["rope_theta"]
                assert config["rotary_emb_base" if config["model_type"] == "gpt_neox" else "rope_theta"] == theta, folder
                assert "rope_scaling" in config, folder
            settings = json.loads((folder / "tokenizer_config.json").read_text())
            assert settings["tokenizer_class"] == "PreTrainedTokenizerFast", folder
            assert not isinstance(settings.get("extra_special_tokens"), list), folder
            template = (folder / "chat_template.jinja").is_file() or bool(settings.get("chat_template"))
            assert template == name.endswith("chat"), folder


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_transformers_4_57(saved: tuple[Path, Said], python_with_4_57: Path) -> None:
    root, said = saved
    assert_read_by_other_version(python_with_4_57, root, said)


@pytest.mark.long
@pytest.mark.timeout(3_600)
@pytest.mark.skipif(VLLM_PYTHON is None, reason="HEEDFUL_VLLM_PYTHON does not name a Python that has vLLM")
def test_vllm(saved: tuple[Path, Said]) -> None:
    """The policy: the tokens of its prompts, log-probs and greedy text."""
    root, said = saved
    run_reader(Path(str(VLLM_PYTHON)), "read_with_vllm.py", root)
    refused: set[str] = set()
    for name, ours in said.items():
        found = json.loads((root / name / "vllm.json").read_text())
        if "refused" in found:
            family = name.partition(",")[0]
            assert NO_VLLM.get(family, "not a known refusal") in found["refused"], (name, found["refused"])
            refused.add(family)
            continue
        assert found["prompts"] == ours["prompts"], name
        assert found["greedy"] == ours["greedy"], name
        assert_close(found["logprobs"], ours["logprobs"], name)
    assert refused == set(NO_VLLM)
