from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from tests.tiny import END, last_hidden, plain, tiny_gpt2, tiny_llama, tiny_tokenizer
from transformers import LogitsProcessorList, PreTrainedModel, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from heedful.model import Engine, Sampling, generate
from heedful.model.engine.paged_runner import PagedRunner
from heedful.model.engine.sampling import Drawing, request_seeds, uniform
from heedful.model.engine.scheduler import Step


def some_logits(rows: int, vocabulary: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


def drawing(sampling: Sampling | list[Sampling], seeds: list[int], step: int = 0) -> Drawing:
    samplings = sampling if isinstance(sampling, list) else [sampling] * len(seeds)
    return Drawing(samplings, torch.tensor(seeds), torch.full((len(seeds),), step))


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.0])
def test_samples_follow_the_models_distribution(temperature: float) -> None:
    """Chi-square over 20,000 first tokens of a model with 12 words; the seeds are fixed, so this never fails by chance."""
    model = tiny_gpt2(5, vocabulary=12)
    prompt, count = [3, 7], 20_000
    seeds = request_seeds(0, stream=f"chi-square {temperature}", count=count)
    drawn = [
        g.tokens[0]
        for g in generate(model, [prompt] * count, Sampling(max_tokens=1, temperature=temperature), seeds, batch_size=5_000)
    ]
    logits = last_hidden(plain(model), prompt)[-1] @ model.get_output_embeddings().weight.T  # pyright: ignore
    expected = torch.softmax(logits.double() / temperature, -1).detach().numpy() * count
    observed = np.bincount(drawn, minlength=12)
    common = expected >= 5
    observed = np.append(observed[common], observed[~common].sum())
    expected = np.append(expected[common], expected[~common].sum())
    assert len(expected) >= 4
    if expected[-1] < 5:
        observed, expected = np.append(observed[:-2], observed[-2:].sum()), np.append(expected[:-2], expected[-2:].sum())
    assert stats.chisquare(observed, expected).pvalue > 0.01


def test_consecutive_tokens_are_drawn_independently() -> None:
    """A model with flat logits: pairs of tokens are uniform over all pairs."""
    model = tiny_gpt2(0, vocabulary=4)
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()  # pyright: ignore
    seeds = request_seeds(1, stream="pairs", count=8_000)
    generations = generate(model, [[1]] * 8_000, Sampling(max_tokens=2), seeds, batch_size=8_000)
    pairs = np.bincount([4 * g.tokens[0] + g.tokens[1] for g in generations], minlength=16)
    assert stats.chisquare(pairs).pvalue > 0.01
    np.testing.assert_allclose(generations[0].logprobs, [np.log(0.25)] * 2, atol=1e-6)


# ---------------------------------------------------------------- drawing


@pytest.mark.parametrize("vocabulary", [2, 3, 12, 64, 1000, 8192])
def test_a_token_is_where_the_cumulative_distribution_passes_the_requests_number(vocabulary: int) -> None:
    """Against a plain inversion in float64; steps go on beyond what is made ahead."""
    seeds, steps = request_seeds(3, stream="inversion", count=40), 70
    drawn = drawing(Sampling(max_tokens=100), seeds, step=5)
    for step in range(5, 5 + steps):
        logits = some_logits(40, vocabulary, step)
        tokens, logprobs = drawn.draw(logits)
        probabilities = torch.softmax(logits.double(), -1).numpy()
        numbers = uniform(torch.tensor(seeds), step).numpy()
        expected = [int(np.searchsorted(np.cumsum(p), u, side="right")) for p, u in zip(probabilities, numbers, strict=True)]
        assert tokens.tolist() == expected
        np.testing.assert_allclose(logprobs, np.log(probabilities[range(40), expected]), rtol=0, atol=2e-6)


def test_logprobs_stay_exact_where_logits_are_large() -> None:
    logits = some_logits(50, 500, scale=40.0) + 300
    tokens, logprobs = drawing(Sampling(max_tokens=1), list(range(50))).draw(logits)
    expected = torch.log_softmax(logits.double(), -1).gather(-1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logprobs.double(), expected, rtol=0, atol=1e-5)


FILTERS = [
    Sampling(max_tokens=1, top_k=1),
    Sampling(max_tokens=1, top_k=7),
    Sampling(max_tokens=1, top_p=0.6),
    Sampling(max_tokens=1, top_p=0.999),
    Sampling(max_tokens=1, temperature=0.7, top_k=20, top_p=0.8),
    Sampling(max_tokens=1, temperature=1.8, top_p=0.3),
    Sampling(max_tokens=1, temperature=3.0, top_p=0.95),
]


@pytest.mark.parametrize("sampling", FILTERS)
@pytest.mark.parametrize("vocabulary", [40, 2_000])
def test_what_is_kept_is_what_transformers_keeps(sampling: Sampling, vocabulary: int) -> None:
    """The frequencies of one row's draws against transformers' own logits warpers; nothing outside their set is ever drawn."""
    logits, count = some_logits(1, vocabulary, seed=1, scale=1.5), 4_000
    warpers = LogitsProcessorList([TemperatureLogitsWarper(float(sampling.temperature))])
    if sampling.top_k is not None:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    expected = torch.softmax(warpers(torch.tensor([[0]]), logits.clone()).double(), -1)[0]  # pyright: ignore[reportArgumentType]
    seeds = request_seeds(0, stream="filters", count=count)
    tokens, logprobs = drawing(sampling, seeds).draw(logits.expand(count, -1))
    numbers = uniform(torch.tensor(seeds), 0)
    inverted = torch.searchsorted(expected.cumsum(-1), numbers * expected.sum(), right=True)
    assert expected[tokens].min() > 0
    assert (tokens == inverted).float().mean() > 0.999  # but for numbers within rounding of an edge
    # Log-probs are the model's own, whatever was left out.
    torch.testing.assert_close(logprobs, torch.log_softmax(logits[0], -1)[tokens], rtol=0, atol=1e-5)


def test_rows_with_different_sampling_share_a_batch() -> None:
    samplings = [
        *FILTERS,
        Sampling(max_tokens=1),
        Sampling(max_tokens=1, temperature=0.0),
        Sampling(max_tokens=1, logit_bias={3: 9.0}),
    ]
    samplings, logits = samplings * 3, some_logits(30, 300)
    tokens, logprobs = drawing(samplings, list(range(30))).draw(logits)
    for row, sampling in enumerate(samplings):
        alone = drawing(sampling, [row]).draw(logits[row : row + 1])
        assert (tokens[row : row + 1], logprobs[row : row + 1]) == alone


def test_many_rows_are_drawn_in_chunks_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    samplings = [Sampling(max_tokens=1, temperature=i % 3 * 0.7, top_k=5 if i % 2 else None) for i in range(50)]
    logits = some_logits(50, 100)
    whole = drawing(samplings, list(range(50))).draw(logits)
    monkeypatch.setattr("heedful.model.engine.sampling._CHUNK_NUMBERS", 1)
    parts = drawing(samplings, list(range(50))).draw(logits)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


def test_temperature_zero_takes_the_first_of_the_likeliest_and_heeds_the_bias() -> None:
    logits = torch.zeros(2, 100)
    logits[0, [17, 60]] = 4.0
    logits[1, 99] = 1.0
    assert drawing(Sampling(max_tokens=1, temperature=0.0), [0, 1]).draw(logits)[0].tolist() == [17, 99]
    biased = Sampling(max_tokens=1, temperature=0.0, logit_bias={5: 6.0, 17: -10.0})
    assert drawing(biased, [0, 1]).draw(logits)[0].tolist() == [5, 5]


def test_a_bias_of_minus_infinity_forbids_a_token() -> None:
    sampling = Sampling(max_tokens=1, logit_bias=dict.fromkeys(range(60), -math.inf))
    tokens, _ = drawing(sampling, list(range(500))).draw(some_logits(500, 64))
    assert set(tokens.tolist()) == {60, 61, 62, 63}


@pytest.mark.parametrize("number", [0.0, 1 - 2.0**-53])
def test_the_outermost_numbers_draw_tokens_that_are_possible(number: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heedful.model.engine.sampling.uniform", lambda seeds, steps: (0 * (seeds + steps)).double() + number)
    allowed = [20, 21, 45]
    sampling = Sampling(max_tokens=1, logit_bias={i: -math.inf for i in range(64) if i not in allowed})
    tokens, _ = drawing(sampling, list(range(300))).draw(some_logits(300, 64))
    assert set(tokens.tolist()) == {20 if number == 0 else 45}


def test_rounding_of_the_cumulative_distribution_draws_no_impossible_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: blocks of four tokens weigh 4, s, 4, 0 with s = 1.5 * 2**-51, and the float64 after 4 is 4 + 2**-50.

    Cumulative sums: 4, 4 + s = 4 + 2**-50 (rounded up), 8. Half of 8 is where the second block begins, whose place is
    1 - 2**-50 / s = -1/3 of it; its first token weighs nothing.
    """
    monkeypatch.setattr("heedful.model.engine.sampling.uniform", lambda seeds, steps: (0 * (seeds + steps)).double() + 0.5)
    logits = torch.full((1, 16), -math.inf)
    logits[0, [0, 1, 2, 3, 8, 9, 10, 11]] = 0.0
    logits[0, 5] = math.log(1.5) - 51 * math.log(2)
    assert drawing(Sampling(max_tokens=1), [0]).draw(logits)[0].tolist() == [5]


@pytest.mark.parametrize("vocabulary", [3, 64, 1_000])
def test_the_largest_number_finds_the_last_possible_token(vocabulary: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the weights: rounding does not take the target to the whole sum, behind which there is nothing."""
    largest = 1 - 2.0**-53
    monkeypatch.setattr("heedful.model.engine.sampling.uniform", lambda seeds, steps: (0 * (seeds + steps)).double() + largest)
    logits = some_logits(3_000, vocabulary, scale=2.0)
    logits[:1_000] = 0.0  # sums that are powers of two, or small numbers
    logits[:, vocabulary - 1] = -math.inf
    tokens, _ = drawing(Sampling(max_tokens=1), list(range(3_000))).draw(logits)
    assert tokens.tolist() == [vocabulary - 2] * 3_000


def test_top_k_keeps_k_tokens_and_those_as_likely_as_the_last() -> None:
    logits = torch.tensor([[2.0, 5.0, 3.0, 3.0, 4.0, 1.0]]).expand(400, -1)
    for k, kept in ((1, {1}), (2, {1, 4}), (3, {1, 2, 3, 4}), (4, {1, 2, 3, 4}), (5, {0, 1, 2, 3, 4})):
        tokens, _ = drawing(Sampling(max_tokens=1, temperature=4.0, top_k=k), list(range(400))).draw(logits)
        assert set(tokens.tolist()) == kept
    for k in (6, 7, 1_000):  # all of a vocabulary, and more than there are
        tokens, _ = drawing(Sampling(max_tokens=1, temperature=4.0, top_k=k), list(range(400))).draw(logits)
        assert set(tokens.tolist()) == {0, 1, 2, 3, 4, 5}


def test_values_out_of_range_are_refused() -> None:
    for wrong in (
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"stop": ("",)},
    ):
        with pytest.raises(ValueError, match=r"got|empty"):
            Sampling(max_tokens=1, **wrong)  # pyright: ignore[reportArgumentType]


# ---------------------------------------------------------------- stop strings


def test_a_stop_string_ends_the_response_with_the_token_that_completes_it() -> None:
    model, tokenizer = tiny_gpt2(), tiny_tokenizer()
    prompts, seeds = [[i] for i in range(1, 60)], list(range(59))
    free = generate(model, prompts, Sampling(max_tokens=12), seeds)

    def text(tokens: list[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=True))

    stops = ("7 w", "w33")  # in the middle of two words; the whole of one
    cut = generate(model, prompts, Sampling(max_tokens=12, stop=stops), seeds, tokenizer=tokenizer)
    assert {g.stop for g in cut} == {None, *stops}
    for whole, generation in zip(free, cut, strict=True):
        ends = [n for n in range(1, 13) if any(s in text(whole.tokens[:n]) for s in stops)]
        assert generation.tokens == whole.tokens[: ends[0] if ends else 12]
        assert generation.finished == bool(ends)
        assert (generation.stop is not None) == bool(ends)
        if generation.stop is not None:
            assert generation.stop in text(generation.tokens)


def test_stop_strings_need_a_tokenizer() -> None:
    with pytest.raises(ValueError, match="tokenizer"):
        Engine(tiny_gpt2()).submit([1], Sampling(max_tokens=2, stop=("w1",), stop_tokens=(END,)), [0])


# ---------------------------------------------------------------- random numbers


def test_uniform_is_splitmix64() -> None:
    """The five outputs for seed 1234567 that Rosetta Code and the reference splitmix64.c (Vigna, 2015) give."""
    reference = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    seeds = torch.tensor([1234567])
    for step, output in enumerate(reference):
        assert float(uniform(seeds, step)) == (output >> 11) * 2.0**-53


def test_uniform_wraps_around_like_an_unsigned_integer() -> None:
    """Seeds at both ends against the generator in Python's unbounded integers (Steele, Lea, Flood 2014, figure 17)."""

    def reference(seed: int, step: int) -> float:
        wrap = 2**64 - 1
        z = (seed + (step + 1) * 0x9E3779B97F4A7C15) & wrap
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & wrap
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & wrap
        return ((z ^ (z >> 31)) >> 11) * 2.0**-53

    seeds = [0, 1, 2**62, 2**63 - 1, 987654321987654321]
    for step in (0, 1, 7, 1000, 2**20):
        got = uniform(torch.tensor(seeds), step)
        assert got.tolist() == [reference(seed, step) for seed in seeds]


@pytest.mark.parametrize("by", ["seed", "step"])
def test_uniform_is_uniform_over_seeds_and_over_steps(by: str) -> None:
    numbers = (
        uniform(torch.arange(20_000), 0)
        if by == "seed"
        else torch.cat([uniform(torch.tensor([42]), step) for step in range(20_000)])
    ).numpy()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert stats.kstest(numbers, "uniform").pvalue > 0.01


def test_request_seeds_depend_on_seed_and_stream_but_not_on_their_number() -> None:
    seeds = request_seeds(3, stream="rollouts 0", count=50)
    assert request_seeds(3, stream="rollouts 0", count=10) == seeds[:10]
    others = [request_seeds(4, stream="rollouts 0", count=50), request_seeds(3, stream="rollouts 1", count=50)]
    assert len({*seeds, *others[0], *others[1]}) == 150


# ---------------------------------------------------------------- penalties, likeliest tokens


def test_penalties_lower_the_logits_of_tokens_that_were_drawn() -> None:
    """By hand: a token drawn three times loses presence + 3 x frequency, one drawn once presence + frequency."""
    logits = torch.tensor([[2.0, 1.9, 0.0, 1.0]])
    sampling = Sampling(max_tokens=9, temperature=0, presence_penalty=0.5, frequency_penalty=0.2)

    def drawn(history: list[int]) -> int:
        return int(Drawing([sampling], torch.tensor([1]), torch.tensor([len(history)]), [history]).draw(logits)[0])

    assert drawn([]) == 0
    assert drawn([0]) == 1  # 2.0 - 0.7 < 1.9
    assert drawn([0, 1]) == 0  # 1.3 > 1.2
    assert drawn([0, 0, 0, 1]) == 1  # 0.9 < 1.2
    assert drawn([0, 0, 0, 1, 1, 1]) == 3  # 0.9 and 0.8 < 1.0
    raised = Sampling(max_tokens=9, temperature=0, presence_penalty=-2.0)
    assert int(Drawing([raised], torch.tensor([1]), torch.tensor([1]), [[2]]).draw(logits)[0]) == 0
    assert int(Drawing([raised], torch.tensor([1]), torch.tensor([1]), [[3]]).draw(logits)[0]) == 3


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_penalties_follow_what_the_engine_draws(make: Callable[[int], PreTrainedModel]) -> None:
    """A frequency penalty of 100 at temperature 0 lets no token come twice; other requests are not touched."""
    model = make(1)
    engine = Engine(model, slots=4)
    penalised = Sampling(max_tokens=40, temperature=0, frequency_penalty=100.0)
    (first,) = engine.submit([3, 4], penalised, [1])
    (other,) = engine.submit([3, 4], Sampling(max_tokens=40, temperature=0), [1])
    tokens: dict[int, list[int]] = {first: [], other: []}
    while engine.num_unfinished:
        for step in engine.step():
            tokens[step.number].append(step.token)
    assert len(set(tokens[first])) == 40
    assert tokens[other] == generate(model, [[3, 4]], Sampling(max_tokens=40, temperature=0), [1])[0].tokens


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_the_likeliest_tokens_come_with_each_step_of_who_asks(make: Callable[[int], PreTrainedModel]) -> None:
    """Against one plain forward pass over the whole sequence; the tokens drawn are the same with and without."""
    model = make(2)
    engine = Engine(model, slots=4)
    (asking,) = engine.submit([3, 4], Sampling(max_tokens=6, top_logprobs=5), [7])
    (quiet,) = engine.submit([3, 4], Sampling(max_tokens=6), [7])
    steps: dict[int, list[Step]] = {asking: [], quiet: []}
    while engine.num_unfinished:
        for step in engine.step():
            steps[step.number].append(step)
    tokens = [step.token for step in steps[asking]]
    assert tokens == [step.token for step in steps[quiet]]
    assert all(step.likeliest == () for step in steps[quiet])
    hidden = last_hidden(plain(model), [3, 4, *tokens[:-1]])[1:]
    expected = torch.log_softmax(hidden @ model.get_output_embeddings().weight.T, -1)  # pyright: ignore
    for step, row in zip(steps[asking], expected, strict=True):
        values, ids = row.topk(5)
        assert [token for token, _ in step.likeliest] == ids.tolist()
        np.testing.assert_allclose([value for _, value in step.likeliest], values.detach(), rtol=0, atol=1e-5)


def test_values_that_mean_nothing_are_refused() -> None:
    for name, value in (("presence_penalty", math.nan), ("frequency_penalty", math.inf), ("top_logprobs", -1)):
        wrong: dict[str, Any] = {name: value}
        with pytest.raises(ValueError, match=r"penalties|top_logprobs"):
            Sampling(max_tokens=1, **wrong)


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_a_step_computes_no_more_prompt_tokens_than_it_may(make: Callable[[int], PreTrainedModel]) -> None:
    """At most 10 in a step, and equal prompts count once. A compiled pass computes a longer prompt in several steps, plain
    classes in one. The tokens drawn are those without a limit.
    """
    model, sampling = make(1), Sampling(max_tokens=8)
    prompts = [[3] * 6, [4] * 4, [5] * 30, [6] * 5, [6] * 5, [7] * 6]
    engine = Engine(model, slots=9, admit_at=0, admit_tokens=10)
    numbers = [engine.submit(prompt, sampling, [i])[0] for i, prompt in enumerate(prompts)]
    tokens: dict[int, list[int]] = {number: [] for number in numbers}
    begun: list[set[int]] = []
    while engine.num_unfinished:
        steps = engine.step()
        begun.append({step.number for step in steps if not tokens[step.number]})
        for step in steps:
            tokens[step.number].append(step.token)
    in_parts = isinstance(engine._runner, PagedRunner)
    assert [len(new) for new in begun[:7]] == ([2, 0, 0, 1, 2, 1, 0] if in_parts else [2, 1, 2, 1, 0, 0, 0])
    expected = generate(model, prompts, sampling, list(range(6)))
    assert list(tokens.values()) == [generation.tokens for generation in expected]


def test_several_requests_are_cancelled_at_once() -> None:
    engine = Engine(tiny_gpt2(1), slots=2)
    numbers = engine.submit([3], Sampling(max_tokens=50), [1, 2]) + engine.submit([4], Sampling(max_tokens=50), [3, 4])
    engine.step()
    engine.cancel(numbers[0], numbers[2], numbers[3])
    assert engine.num_unfinished == 1
    engine.cancel(*numbers)
    assert engine.num_unfinished == 0
