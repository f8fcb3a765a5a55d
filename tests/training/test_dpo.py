"""DPO: its loss against plain transformers, what it learns, packing, microbatches, resuming."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.tiny import largest_difference, parameter_gradients, plain, snapshot, tiny_gpt2, tiny_llama, tiny_tokenizer
from tests.training.interrupting import every, interrupted_at, quiet
from tests.training.test_reward import likes_sevens, random_rankings, ranked, ranked_by_several
from transformers import PreTrainedModel

from heedful.errors import ConfigError
from heedful.model import load_causal_model
from heedful.model.encoding import RankedPrompt
from heedful.model.precision import MasterWeights
from heedful.training import dpo
from heedful.training.alternatives_config import DPOConfig
from heedful.training.dpo import response_logprobs, train_dpo

TOKENIZER = tiny_tokenizer()


def settings(**changed: Any) -> DPOConfig:
    defaults: dict[str, Any] = {"precision": "float32", "batch_size": 8, "learning_rate": 3e-3}
    return DPOConfig(**{**defaults, **changed})


def train(
    model: PreTrainedModel, rankings: list[RankedPrompt], config: DPOConfig, folder: Path, **more: Any
) -> PreTrainedModel:
    return train_dpo(model, TOKENIZER, rankings, config, folder, console=quiet(), **{"validation": [], **more})


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def plain_logprob(model: Any, prompt: list[int], response: list[int]) -> torch.Tensor:
    """Of a response by itself, in plain transformers, padded on the right with what must not count."""
    tokens = torch.tensor([[*prompt, *response, *[3] * 5]])
    mask = torch.tensor([[1] * (len(prompt) + len(response)) + [0] * 5])
    logits = model(input_ids=tokens, attention_mask=mask).logits[0]
    places = range(len(prompt) - 1, len(prompt) + len(response) - 1)
    return torch.stack([logits[p].log_softmax(-1)[t] for p, t in zip(places, response, strict=True)]).sum()


def plain_loss(policy: Any, reference: Any, rankings: list[RankedPrompt], beta: float) -> torch.Tensor:
    """Rafailov's loss pair by pair, each response in a forward pass of its own; ties are left out."""
    losses = []
    for r in rankings:
        ratios = [
            plain_logprob(policy, r.prompt, response) - plain_logprob(reference, r.prompt, response).detach()
            for response in r.responses
        ]
        of_labelers = []
        for ranks in r.ranks:
            pairs = [(i, j) for i in range(len(ranks)) for j in range(len(ranks)) if 0 < ranks[i] < ranks[j]]
            of_labelers.append(-torch.stack([F.logsigmoid(beta * (ratios[i] - ratios[j])) for i, j in pairs]).mean())
        losses.append(torch.stack(of_labelers).mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
@pytest.mark.parametrize("tokens", [1, 40, 16_384])
def test_packed_with_a_shared_prompt_it_trains_as_separate_padded_forwards_do(make: Any, tokens: int) -> None:
    """Loss and gradients of all parameters, whatever the microbatches; two labelers, one of whom saw two of three responses."""
    rankings = random_rankings([5, 2, 3])
    rankings.append(ranked([5, 6], [[1, 2], [3], [4, 4, 4]], 1, 2, 2))
    rankings.append(ranked_by_several([7, 8], [[1, 9], [3], [2]], (1, 2, 3), (0, 2, 1)))
    config = settings(beta=0.5, tokens_per_microbatch=tokens)
    reference = response_logprobs(make(1), rankings, config)
    model = make(0)
    got = dpo.accumulate_gradients(MasterWeights(model, "float32"), rankings, reference, config)
    policy = plain(make(0))
    expected = plain_loss(policy, plain(make(1)), rankings, 0.5)
    expected.backward()
    assert got["loss"] == pytest.approx(float(expected.detach()), abs=1e-4)
    assert largest_difference(parameter_gradients(model), parameter_gradients(policy)) < 2e-4


def test_the_gradient_of_a_weight_by_finite_differences() -> None:
    rankings = random_rankings([3, 2])
    config = settings(beta=0.5, tie_threshold=0.7)
    reference = response_logprobs(tiny_gpt2(1), rankings, config)

    def loss(change: float) -> float:
        model = tiny_gpt2(0)
        with torch.no_grad():
            model.get_parameter("transformer.ln_f.weight")[3] += change
        return dpo.accumulate_gradients(MasterWeights(model, "float32"), rankings, reference, config)["loss"]

    model = tiny_gpt2(0)
    dpo.accumulate_gradients(MasterWeights(model, "float32"), rankings, reference, config)
    gradient = model.get_parameter("transformer.ln_f.weight").grad
    assert gradient is not None
    assert float(gradient[3]) == pytest.approx((loss(5e-3) - loss(-5e-3)) / 1e-2, rel=0.01, abs=1e-4)


def test_the_first_loss_is_log_2_and_a_simple_preference_is_learned(tmp_path: Path) -> None:
    before = snapshot(tiny_gpt2(scale=0.1))
    model = train(
        tiny_gpt2(scale=0.1),
        likes_sevens(300),
        settings(learning_rate=3e-3, epochs=3, warmup_share=0.0),
        tmp_path,
        validation=likes_sevens(60, seed=1),
    )
    rows = metrics(tmp_path)
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)  # the policy is its own reference
    assert (rows[0]["margin"], rows[0]["log_ratio"]) == pytest.approx((0.0, 0.0), abs=1e-4)
    assert rows[-1]["validation_accuracy"] > 0.8
    assert rows[-1]["validation_loss"] < 0.6
    assert largest_difference(before, snapshot(model)) > 1e-3
    assert largest_difference(snapshot(load_causal_model(tmp_path / "model", "float32")), snapshot(model)) == 0.0
    assert not (tmp_path / "checkpoints").exists()


def test_logged_statistics_by_hand() -> None:
    rankings = random_rankings([3])
    policy, reference = tiny_gpt2(0), tiny_gpt2(1)
    r = rankings[0]
    of = [
        [float(plain_logprob(plain(m), r.prompt, response).detach()) for response in r.responses] for m in (policy, reference)
    ]
    ratios = [a - b for a, b in zip(*of, strict=True)]
    pairs = [(i, j) for i in range(3) for j in range(3) if r.ranks[0][i] < r.ranks[0][j]]
    config = settings(beta=0.2)
    got = dpo.accumulate_gradients(
        MasterWeights(policy, "float32"), rankings, response_logprobs(reference, rankings, config), config
    )
    assert got["log_ratio"] == pytest.approx(sum(ratios) / 3, abs=1e-4)
    assert got["margin"] == pytest.approx(sum(0.2 * (ratios[i] - ratios[j]) for i, j in pairs) / 3, abs=1e-4)
    assert got["accuracy"] == pytest.approx(sum(ratios[i] > ratios[j] for i, j in pairs) / 3)


def test_ties_count_only_with_a_threshold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dpo, "make_optimizer", lambda model, config: torch.optim.SGD(model.parameters(), lr=0.0))
    tied = [ranked([5, 6 + i], [[1, 2], [3, 4, 5]], 1, 1) for i in range(16)]
    model = train(tiny_gpt2(), tied, settings(tie_threshold=1.0986, learning_rate=1e-2, beta=1.0), tmp_path)
    assert largest_difference(snapshot(tiny_gpt2()), snapshot(model)) < 1e-5  # equal rewards are what a tie says
    assert metrics(tmp_path)[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)  # nu = 3: P(tie) = 1/2
    reference = [[0.0, -40.0]]
    config = settings(tie_threshold=1.0986, beta=1.0)
    apart = dpo.accumulate_gradients(MasterWeights(tiny_gpt2(), "float32"), tied[:1], reference, config)
    assert apart["loss"] > math.log(2)


@pytest.mark.parametrize("at", [2, 6])
def test_an_interrupted_run_goes_on_to_the_same_weights_without_computing_the_reference_again(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dpo, "CheckpointTimer", every(4))
    config, more = settings(epochs=2, validate_every=3), {"validation": likes_sevens(10, seed=1)}
    whole = train(tiny_gpt2(), likes_sevens(30), config, tmp_path / "whole", **more)
    with monkeypatch.context() as patched:
        patched.setattr(dpo, "apply_gradients", interrupted_at(at, dpo.apply_gradients))
        with pytest.raises(KeyboardInterrupt):
            train(tiny_gpt2(), likes_sevens(30), config, tmp_path / "run", **more)
    assert (tmp_path / "run" / "checkpoints").exists()
    asked: list[int] = []
    original = dpo.response_logprobs

    def counted(model: Any, rankings: Any, config: Any) -> Any:
        asked.append(len(rankings))
        return original(model, rankings, config)

    monkeypatch.setattr(dpo, "response_logprobs", counted)
    resumed = train(tiny_gpt2(), likes_sevens(30), config, tmp_path / "run", **more)
    assert set(asked) == {10}, "only the validation rankings, at validations"
    assert largest_difference(snapshot(resumed), snapshot(whole)) == 0.0
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_accumulated_microbatches_give_the_weights_of_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dpo, "make_optimizer", lambda model, config: torch.optim.SGD(model.parameters(), lr=0.0))
    ends = []
    for tokens in (12, 10_000):
        model = tiny_gpt2()
        train(model, likes_sevens(20), settings(learning_rate=0.05, tokens_per_microbatch=tokens), tmp_path / str(tokens))
        ends.append(snapshot(model))
    assert largest_difference(ends[0], snapshot(tiny_gpt2())) > 1e-3
    assert largest_difference(*ends) < 1e-5


def test_other_rankings_in_the_same_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(dpo, "apply_gradients", interrupted_at(1, dpo.apply_gradients))
        with pytest.raises(KeyboardInterrupt):
            train(tiny_gpt2(), likes_sevens(20), settings(), tmp_path)
    with pytest.raises(ConfigError, match="checkpoints of another run"):
        train(tiny_gpt2(), likes_sevens(20, seed=5), settings(), tmp_path)


@pytest.mark.parametrize("wrong", [{"beta": 0.0}, {"tie_threshold": -1.0}, {"warmup_share": 1.5}, {"epochs": 0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        settings(**wrong)
