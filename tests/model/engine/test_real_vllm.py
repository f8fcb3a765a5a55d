"""vLLM behind the engine's call, for real. HEEDFUL_VLLM_PYTHON names the Python of an environment that has vLLM.

`python bench/_setup.py vllm` makes such an environment: bench/.venvs/vllm/bin/python. See docs/distributed.md.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PYTHON = os.environ.get("HEEDFUL_VLLM_PYTHON")
MODEL = os.environ.get("HEEDFUL_REAL_MODEL")


@pytest.mark.long
@pytest.mark.timeout(1_800)
@pytest.mark.skipif(PYTHON is None, reason="HEEDFUL_VLLM_PYTHON does not name a Python that has vLLM")
@pytest.mark.parametrize(
    "cases",  # those in one line share a vLLM, which takes half a minute to start
    [
        "greedy_text_is_ours sampling_is_as_asked each_call_uses_the_weights_as_they_are_then",
        "ppo_learns_as_with_our_engine",
        "several_ranks_learn_what_one_learns",
        pytest.param(
            "a_real_chat_model",
            marks=pytest.mark.skipif(MODEL is None, reason="HEEDFUL_REAL_MODEL does not name the folder of a model"),
        ),
    ],
)
def test_with_vllm_itself(cases: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(PYTHON), "-m", "tests.model.engine.with_real_vllm", str(tmp_path), *cases.split()],
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=1_700,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-6_000:]
