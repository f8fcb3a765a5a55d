from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.tiny import END, largest_difference, parameter_gradients, plain, snapshot, tiny_gpt2, tiny_llama, tiny_tokenizer
from tests.training.interrupting import every, interrupted_at, quiet
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from heedful.errors import NumericalError
from heedful.model import load_scalar_model, scalar_model_from_causal
from heedful.model.encoding import Example, RankedPrompt
from heedful.model.precision import MasterWeights
from heedful.model.readout import score
from heedful.model.scalar_models import scalar_offset
from heedful.training import reward
from heedful.training.config import RewardConfig
from heedful.training.reward import ranking_quality, score_rankings, train_reward

TOKENIZER = tiny_tokenizer()
LIKED = 7


def scalar_model(seed: int = 0, scale: float = 0.1) -> PreTrainedModel:
    torch.manual_seed(seed)
    return scalar_model_from_causal(tiny_gpt2(seed, scale=scale), pad_token_id=None, eos_token_id=END)


def ranked(prompt: list[int], responses: list[list[int]], *ranks: int) -> RankedPrompt:
    return ranked_by_several(prompt, responses, ranks)


def ranked_by_several(prompt: list[int], responses: list[list[int]], *ranks: tuple[int, ...]) -> RankedPrompt:
    names = tuple([str(i) for i in range(len(responses))])
    return RankedPrompt("p", names, prompt, responses, tuple([f"labeler {j}" for j in range(len(ranks))]), ranks)


def likes_sevens(count: int, seed: int = 0) -> list[RankedPrompt]:
    """Responses with more of one word are better; equal counts are ties."""
    rng = np.random.default_rng(seed)
    rankings: list[RankedPrompt] = []
    while len(rankings) < count:
        responses = []
        for _ in range(int(rng.integers(2, 6))):
            words = rng.integers(8, 60, 4)
            words[: rng.integers(0, 4)] = LIKED
            responses.append([*rng.permutation(words).tolist(), END])
        counts = [r.count(LIKED) for r in responses]
        if len(set(counts)) > 1:
            rankings.append(ranked(rng.integers(8, 60, 3).tolist(), responses, *(5 - c for c in counts)))
    return rankings


def random_rankings(sizes: list[int], seed: int = 0) -> list[RankedPrompt]:
    rng = np.random.default_rng(seed)
    return [
        ranked(
            rng.integers(1, 60, int(rng.integers(1, 9))).tolist(),
            [rng.integers(1, 60, int(rng.integers(1, 9))).tolist() for _ in range(k)],
            *(rng.permutation(k) + 1).tolist(),
        )
        for k in sizes
    ]


def settings(**changed: Any) -> RewardConfig:
    defaults: dict[str, Any] = {"precision": "float32", "batch_size": 8, "learning_rate": 3e-3}
    return RewardConfig(**{**defaults, **changed})


def train(
    model: PreTrainedModel, rankings: list[RankedPrompt], config: RewardConfig, folder: Path, **more: Any
) -> PreTrainedModel:
    defaults: dict[str, Any] = {"validation": [], "demonstrations": []}
    return train_reward(model, TOKENIZER, rankings, config, folder, console=quiet(), **{**defaults, **more})


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def plain_score(model: Any, prompt: list[int], response: list[int]) -> torch.Tensor:
    return model(input_ids=torch.tensor([prompt + response])).logits[0, 0]


def plain_loss(model: Any, rankings: list[RankedPrompt]) -> torch.Tensor:
    """The paper's loss pair by pair: one forward pass of plain transformers for each response."""
    losses = []
    for r in rankings:
        scores = [plain_score(model, r.prompt, response) for response in r.responses]
        pairs = [(i, j) for i in range(len(scores)) for j in range(len(scores)) if r.ranks[0][i] < r.ranks[0][j]]
        losses.append(-torch.stack([F.logsigmoid(scores[i] - scores[j]) for i, j in pairs]).mean())
    return torch.stack(losses).mean()


def gradients(rankings: list[RankedPrompt], **changed: Any) -> tuple[float, dict[str, torch.Tensor]]:
    model = scalar_model(scale=0.3)
    loss, _ = reward.accumulate_gradients(MasterWeights(model, "float32"), rankings, settings(**changed))
    return loss, parameter_gradients(model)


# ---------------------------------------------------------------- what it learns


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_simple_preference_is_learned(precision: str, tmp_path: Path) -> None:
    model = train(
        scalar_model(),
        likes_sevens(400),
        settings(learning_rate=1e-2, precision=precision),
        tmp_path,
        validation=likes_sevens(100, seed=1),
        demonstrations=[Example([9, 9], [LIKED, 10, END])],
    )
    rows = metrics(tmp_path)
    assert rows[0]["loss"] > 0.5
    (accuracy,) = [row["validation_accuracy"] for row in rows if "validation_accuracy" in row]
    assert accuracy > 0.97
    saved = load_scalar_model(tmp_path / "model")
    assert ranking_quality(saved, likes_sevens(100, seed=1), 16_384)[1] == pytest.approx(accuracy, abs=0.01)
    assert largest_difference(snapshot(saved), snapshot(model)) == 0.0
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("tokens", [1, 40, 16_384])
def test_a_shared_prompt_trains_as_separate_forwards_do(tokens: int) -> None:
    """Loss and gradients of all parameters, whatever the microbatches."""
    rankings = random_rankings([9, 2, 4, 3])
    rankings.append(ranked([5, 6], [[1, 2], [3], [4, 4, 4]], 1, 2, 2))  # with a tie
    loss, got = gradients(rankings, tokens_per_microbatch=tokens)
    twin = plain(scalar_model(scale=0.3))
    expected = plain_loss(twin, rankings)
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), abs=1e-5)
    assert largest_difference(got, parameter_gradients(twin)) < 1e-5


def test_every_prompt_weighs_the_same_whatever_its_k() -> None:
    """36 comparisons of one prompt and a single one of another: the mean of their gradients, each by itself."""
    many, few = random_rankings([9, 2])
    alone = [gradients([many])[1], gradients([few])[1]]
    for tokens in (1, 16_384):
        together = gradients([many, few], tokens_per_microbatch=tokens)[1]
        assert largest_difference(together, {name: 0.5 * (alone[0][name] + alone[1][name]) for name in together}) < 1e-6


def test_a_prompt_that_several_labelers_ranked_is_computed_once_and_weighs_once() -> None:
    """The mean of its labelers' losses, also where one of them saw only some of the responses."""
    prompt, responses = [5, 6], [[1, 2], [3], [4, 4, 4], [7]]
    first, second = (1, 2, 2, 3), (0, 2, 1, 0)
    other = random_rankings([3])[0]
    got = gradients([ranked_by_several(prompt, responses, first, second), other])
    separate = [
        gradients([ranked(prompt, responses, *first)]),
        gradients([ranked(prompt, [responses[1], responses[2]], 2, 1)]),
        gradients([other]),
    ]
    shares = (0.25, 0.25, 0.5)
    assert got[0] == pytest.approx(sum(share * loss for share, (loss, _) in zip(shares, separate, strict=True)), abs=1e-6)
    one, two, three = (g for _, g in separate)
    expected = {name: 0.25 * one[name] + 0.25 * two[name] + 0.5 * three[name] for name in got[1]}
    assert largest_difference(got[1], expected) < 1e-6


def test_the_logged_loss_and_accuracy() -> None:
    rankings = random_rankings([4, 3])
    model = scalar_model(scale=0.3)
    twin = plain(model)
    correct = pairs = 0
    for r in rankings:
        scores = [float(plain_score(twin, r.prompt, response).detach()) for response in r.responses]
        for i in range(len(scores)):
            for j in range(len(scores)):
                if r.ranks[0][i] < r.ranks[0][j]:
                    pairs += 1
                    correct += scores[i] > scores[j]
    assert pairs == 9
    loss, accuracy = reward.accumulate_gradients(MasterWeights(model, "float32"), rankings, settings(tokens_per_microbatch=1))
    assert accuracy == pytest.approx(correct / pairs)
    assert ranking_quality(model, rankings, 10) == pytest.approx((loss, accuracy), abs=1e-6)


def test_accumulated_microbatches_give_the_weights_of_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward, "make_optimizer", lambda model, config: torch.optim.SGD(model.parameters(), lr=0.0))
    ends = []
    for tokens in (12, 10_000):
        model = scalar_model()
        train(model, likes_sevens(30), settings(learning_rate=0.05, tokens_per_microbatch=tokens), tmp_path / str(tokens))
        ends.append(snapshot(model))
    assert largest_difference(ends[0], snapshot(scalar_model())) > 1e-3
    assert largest_difference(*ends) < 1e-6


def test_one_epoch_in_batches_of_prompts_with_a_cosine_to_a_tenth(tmp_path: Path) -> None:
    train(scalar_model(), likes_sevens(20), settings(), tmp_path)
    rates = [row["learning_rate"] for row in metrics(tmp_path)]
    assert rates == pytest.approx([3e-3, 0.55 * 3e-3, 3e-4], rel=1e-5)


# ---------------------------------------------------------------- scores


def test_scores_are_plain_transformers_whatever_order_and_microbatch() -> None:
    """Known trap: scores that change with batch size."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, 60, n).tolist() for n in (1, 9, 4, 2, 30)]
    responses = [[*rng.integers(1, 60, n).tolist(), END] for n in (0, 5, 20, 1, 3)]
    model = scalar_model(scale=0.3)
    twin = plain(model)
    expected = torch.stack([plain_score(twin, p, r) for p, r in zip(prompts, responses, strict=True)]).detach()
    for tokens in (1, 30, 16_384):
        got = score(model, prompts, responses, tokens_per_microbatch=tokens)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
        turned = score(model, prompts[::-1], responses[::-1], tokens_per_microbatch=tokens)
        torch.testing.assert_close(turned, expected.flip(0), rtol=0, atol=1e-5)


def test_rankings_are_scored_response_by_response() -> None:
    rankings = random_rankings([3, 1, 9])
    model = scalar_model(scale=0.3)
    twin = plain(model)
    for tokens in (1, 16_384):
        for r, rewards in zip(rankings, score_rankings(model, rankings, tokens_per_microbatch=tokens), strict=True):
            expected = [float(plain_score(twin, r.prompt, response).detach()) for response in r.responses]
            assert rewards == pytest.approx(expected, abs=1e-5)


# ---------------------------------------------------------------- bias, interruption, trouble


DEMONSTRATIONS = [Example([9, i], [LIKED, i, END]) for i in range(10, 30)]


def test_demonstrations_score_zero_on_average_in_plain_transformers_too(tmp_path: Path) -> None:
    config = settings(learning_rate=1e-2)
    model = train(scalar_model(), likes_sevens(100), config, tmp_path, demonstrations=DEMONSTRATIONS)
    (before,) = [
        row["demonstration_reward_before_shift"] for row in metrics(tmp_path) if "demonstration_reward_before_shift" in row
    ]
    assert abs(before) > 0.1
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    plain_mean = torch.stack([plain_score(theirs, d.prompt, d.response) for d in DEMONSTRATIONS]).mean()
    assert float(plain_mean.detach()) == pytest.approx(0.0, abs=1e-4)
    ours = score(model, [d.prompt for d in DEMONSTRATIONS], [d.response for d in DEMONSTRATIONS])
    assert float(ours.mean()) == pytest.approx(0.0, abs=1e-4)
    unshifted = train(scalar_model(), likes_sevens(100), config, tmp_path / "without")
    rankings = likes_sevens(5, seed=3)
    for shifted, original in zip(score_rankings(model, rankings), score_rankings(unshifted, rankings), strict=True):
        assert shifted == pytest.approx([s - before for s in original], abs=1e-4)


def test_a_model_whose_final_norm_has_no_bias_keeps_the_shift_in_its_configuration(tmp_path: Path) -> None:
    model = scalar_model_from_causal(tiny_llama(), pad_token_id=None, eos_token_id=END)
    train(model, random_rankings([3, 3]), settings(), tmp_path, demonstrations=DEMONSTRATIONS)
    saved = load_scalar_model(tmp_path / "model")
    assert scalar_offset(saved) != 0.0
    mean = score(saved, [d.prompt for d in DEMONSTRATIONS], [d.response for d in DEMONSTRATIONS]).mean()
    assert float(mean) == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("at", [2, 6])
def test_an_interrupted_run_goes_on_to_the_same_weights(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward, "CheckpointTimer", every(4))
    config, more = settings(epochs=2), {"demonstrations": DEMONSTRATIONS, "validation": likes_sevens(10, seed=1)}
    whole = train(scalar_model(), likes_sevens(30), config, tmp_path / "whole", **more)
    with monkeypatch.context() as patched:
        patched.setattr(reward, "apply_gradients", interrupted_at(at, reward.apply_gradients))
        with pytest.raises(KeyboardInterrupt):
            train(scalar_model(), likes_sevens(30), config, tmp_path / "run", **more)
    assert (tmp_path / "run" / "checkpoints").exists() == (at > 4)
    resumed = train(scalar_model(), likes_sevens(30), config, tmp_path / "run", **more)
    assert largest_difference(snapshot(resumed), snapshot(whole)) == 0.0
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_an_interruption_while_the_model_is_saved_does_not_shift_it_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reward, "CheckpointTimer", every(1))
    whole = train(scalar_model(), likes_sevens(16), settings(), tmp_path / "whole", demonstrations=DEMONSTRATIONS)
    with monkeypatch.context() as patched:
        patched.setattr(reward, "save_gathered", interrupted_at(1, reward.save_gathered))
        with pytest.raises(KeyboardInterrupt):
            train(scalar_model(), likes_sevens(16), settings(), tmp_path / "run", demonstrations=DEMONSTRATIONS)
    resumed = train(scalar_model(), likes_sevens(16), settings(), tmp_path / "run", demonstrations=DEMONSTRATIONS)
    assert largest_difference(snapshot(resumed), snapshot(whole)) == 0.0


def test_a_loss_that_is_not_finite_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = scalar_model()
    monkeypatch.setattr(reward, "quick_check", lambda _: None)  # it would refuse such a model before
    with torch.no_grad():
        model.get_parameter("score.weight").fill_(math.nan)
    with pytest.raises(NumericalError, match="loss"):
        train(model, likes_sevens(16), settings(), tmp_path)
    assert not (tmp_path / "model").exists()


# ---------------------------------------------------------------- validation while it trains


def test_validation_at_chosen_steps_by_k_and_by_labeler(tmp_path: Path) -> None:
    validation = likes_sevens(20, seed=1)
    model = train(scalar_model(), likes_sevens(40), settings(validate_every=2), tmp_path, validation=validation)
    rows = [row for row in metrics(tmp_path) if "validation_loss" in row]
    assert [row["step"] for row in rows] == [1, 3, 5]  # 5 steps: after the second, the fourth, and at the end
    loss, accuracy = ranking_quality(model, validation, 16_384)
    assert rows[-1]["validation_loss"] == pytest.approx(loss, abs=1e-6)
    assert rows[-1]["validation_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert rows[0]["validation_loss"] > rows[-1]["validation_loss"]
    by_k = rows[-1]["validation_accuracy_by_k"]
    assert {*by_k} == {str(len(r.responses)) for r in validation}
    for k, share in by_k.items():
        of_this_k = [r for r in validation if len(r.responses) == int(k)]
        assert share == pytest.approx(ranking_quality(model, of_this_k, 16_384)[1], abs=1e-6)
    assert len(rows[-1]["validation_accuracy_by_labeler"]) == 1
    assert [*rows[-1]["validation_accuracy_by_labeler"].values()] == pytest.approx([accuracy], abs=1e-6)


def test_validation_changes_nothing_that_is_learned(tmp_path: Path) -> None:
    ends = [
        snapshot(train(scalar_model(), likes_sevens(40), settings(), tmp_path / "a")),
        snapshot(
            train(scalar_model(), likes_sevens(40), settings(validate_every=1), tmp_path / "b", validation=likes_sevens(5))
        ),
    ]
    assert largest_difference(*ends) == 0.0


def test_a_weight_multiplies_the_loss_of_its_prompt_alone() -> None:
    model, rankings = scalar_model(), random_rankings([2, 3, 2, 4])
    weighted = [replace(one, weight=weight) for one, weight in zip(rankings, [1.0, 3.0, 0.5, 1.0], strict=True)]
    losses = []
    for one in rankings:
        loss, _ = reward.accumulate_gradients(MasterWeights(model, "float32"), [one], settings())
        losses.append(loss)
    loss, _ = reward.accumulate_gradients(MasterWeights(model, "float32"), weighted, settings())
    assert loss == pytest.approx((losses[0] + 3 * losses[1] + 0.5 * losses[2] + losses[3]) / 4, abs=1e-5)
    assert repr(weighted[1]) == repr(rankings[1])
