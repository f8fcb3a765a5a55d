"""A real chat model's head fitted to people's comparisons, then its last layer trained."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.interrupting import quiet

from heedful.model.encoding import encode_rankings
from heedful.project.importing import import_file
from heedful.project.project import init_project

MODEL = os.environ.get("HEEDFUL_REAL_MODEL")
PAIRS = Path(os.environ.get("HEEDFUL_REAL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")).resolve()
PAIRS = PAIRS / "hh_harmless" / "pairs.jsonl.gz"


@pytest.mark.real
@pytest.mark.skipif(
    MODEL is None or not PAIRS.is_file(),
    reason=f"no real model or no comparisons at {PAIRS}: set HEEDFUL_REAL_MODEL and HEEDFUL_REAL_DATA to their folders",
)
@pytest.mark.timeout(300)
def test_a_fitted_head_predicts_comparisons_of_people_and_the_body_stays(tmp_path: Path) -> None:
    from heedful.model import load_causal_model, load_scalar_model, load_tokenizer, scalar_model_from_causal
    from heedful.project.data_folder import Records
    from heedful.project.selection import training_rankings
    from heedful.training.config import RewardConfig
    from heedful.training.reward import ranking_quality, train_reward

    project = init_project(tmp_path / "project", base_model=str(MODEL), template="chat")
    import_file("hh-rlhf", PAIRS, project.data, split_by="prompt")
    records = Records.load(project.data)
    tokenizer = load_tokenizer(Path(str(MODEL)))
    limits: Any = {"max_prompt_tokens": 96, "max_response_tokens": 48}
    ranked, _ = encode_rankings(
        tokenizer,
        records.prompts,
        records.responses,
        training_rankings(records, "train"),
        template="chat",
        **limits,
    )
    eos = tokenizer.eos_token_id
    assert isinstance(eos, int)
    causal = load_causal_model(Path(str(MODEL)))
    model = scalar_model_from_causal(causal, pad_token_id=None, eos_token_id=eos)
    config = RewardConfig(
        fit_head=True, trained_layers=1, learning_rate=3e-5, batch_size=16, tokens_per_microbatch=4_096, **limits
    )
    train_reward(model, tokenizer, ranked[:160], config, tmp_path / "run", validation=[], demonstrations=[], console=quiet())
    first, *steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert first["head_loss"] < first["head_unseen_loss"] < math.log(2)
    assert len(steps) == 10
    assert sum(row["loss"] for row in steps) / 10 < math.log(2)
    saved = load_scalar_model(tmp_path / "run" / "model")
    last = f"layers.{causal.config.num_hidden_layers - 1}."
    for name, tensor in causal.base_model.state_dict().items():
        same = torch.equal(saved.base_model.state_dict()[name], tensor)
        assert same == (not name.startswith(last) and name != "norm.weight"), name
    assert ranking_quality(saved, ranked[:160], 4_096)[0] < first["head_loss"] + 0.01
