"""The schema of ``results.json``: every number of a run that the report shows, and nothing that depends on the clock.

The same seed on the same machine gives the same bytes. Run times are kept apart, in ``timings.json`` (:class:`Timings`).
A section that was not measured is absent (never empty, never zero); the report then says how to get it.
Shares, rates and accuracies are between 0 and 1; ``low`` and ``high`` bound a 95 % interval.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from heedful import statistics

Group = Literal["held_out", "training"]
"""Labelers whose rankings trained the reward model, or a group that produced no training data (SPEC 2.4)."""


class Estimate(TypedDict):
    """A share or mean with its 95 % interval; ``count`` is the number of judgements behind it."""

    value: float
    low: float
    high: float
    count: int


class Model(TypedDict):
    """One policy.

    The names ``base``, ``prompted_base``, ``sft``, ``ppo``, ``ppo_ptx`` have a fixed place in the report; a smaller sibling
    is called ``<name>_small`` and comes next to its larger one.
    """

    name: str
    label: str
    size: str
    parameters: int


class WinRate(TypedDict):
    """How often the group's labelers preferred ``model`` to the baseline; a tie counts as half (SPEC 4.1)."""

    model: str
    group: Group
    win_rate: float
    low: float
    high: float
    num_comparisons: int


class HeadToHead(TypedDict):
    """How often the group's labelers preferred ``model`` to ``against``; a tie counts as half."""

    model: str
    against: str
    group: Group
    win_rate: float
    low: float
    high: float
    num_comparisons: int


class UseCaseWinRate(TypedDict):
    """The win rate against the baseline within one use case (SPEC 1.5)."""

    model: str
    use_case: str
    win_rate: float
    low: float
    high: float
    num_comparisons: int


class Preference(TypedDict):
    """What labelers preferred, on held-out users' prompts (SPEC 4.1)."""

    baseline: str
    num_prompts: int
    temperature: float
    win_rates: list[WinRate]
    head_to_head: list[HeadToHead]
    by_use_case: list[UseCaseWinRate]


class ExpectedRow(TypedDict):
    """A model or a control against the baseline: the labelers' average judgement.

    ``ties``: share of ties. ``faultless``: share of answers with nothing to complain about. ``utility``: the labelers' mean, in
    their own units. ``kl``: nats per response: of PPO from the initial policy, of the best of n from SFT; null for all others.
    """

    name: str
    label: str
    win_rate: float
    low: float
    high: float
    ties: float
    faultless: float
    utility: float
    kl: float | None


class ExpectedPreference(TypedDict):
    """Win rates in closed form, from held-out simulated labelers' utilities and noise, for several answers to each prompt.

    The first rows are models, by their names; then come the controls ``sft_greedy`` (temperature 0), ``sft_best_of_<n>`` (the
    best of n answers by the reward model) and ``faultless`` (an always faultless answer: the ceiling).
    """

    baseline: str
    num_prompts: int
    num_labelers: int
    rows: list[ExpectedRow]


class Ratings(TypedDict):
    """Mean overall quality (1-7) with its interval (null where unknown), and the rate of each Table 3 flag (SPEC 2.3)."""

    model: str
    group: Group
    overall: float
    low: float | None
    high: float | None
    flags: dict[str, float]


class ClosedDomainHallucination(TypedDict):
    """Share of ratings that mark a hallucination, on prompts whose answer may say nothing that is not in them (SPEC 4.5)."""

    model: str
    group: Group
    rate: Estimate


class RewardModel(TypedDict):
    """Share of comparisons in which the reward model scores the preferred response higher, on unseen prompts.

    ``agreement`` is how often two labelers of the group order a pair the same way, ``agreement_with_reward_model`` how often
    the reward model and one of them do, on the same comparisons (pairs that both labelers ordered); ``longer_wins`` and
    ``shorter_wins`` are the accuracies of the two length rules; ``by_k`` is the accuracy for each number of ranked responses,
    keys such as "4"; ``calibration_error`` is the expected calibration error of sigmoid(reward difference).
    """

    accuracy: float
    low: float
    high: float
    num_comparisons: int
    by_group: dict[str, Estimate]
    agreement: dict[str, Estimate]
    agreement_with_reward_model: dict[str, Estimate]
    longer_wins: Estimate
    shorter_wins: Estimate
    by_k: dict[str, Estimate]
    calibration_error: float


class PrefixCandidate(TypedDict):
    """A few-shot prefix and its mean reward on validation prompts (SPEC 3.7)."""

    text: str
    score: float


class Prefix(TypedDict):
    """The candidates and the index of the one that prompted_base uses."""

    candidates: list[PrefixCandidate]
    chosen: int


class SftCheckpoint(TypedDict):
    """One epoch of SFT: loss in nats per token and mean reward on validation prompts; the chosen one (SPEC 3.2)."""

    epoch: int
    validation_loss: float
    reward: float
    chosen: bool


class BenchmarkScore(TypedDict):
    """A model's score with its 95 % interval, in the benchmark's metric."""

    model: str
    score: float
    low: float
    high: float


class Benchmark(TypedDict):
    """One automatic benchmark; a higher score is better, and scores are between 0 and 1."""

    name: str
    description: str
    metric: str
    num_items: int
    scores: list[BenchmarkScore]


class AlignmentTax(TypedDict):
    """Scores through alignment on one benchmark; a drop is base minus the model, as the paper counts regressions.

    ``share_undone`` = 1 - drop_ppo_ptx / drop_ppo, null if PPO did not drop.
    """

    benchmark: str
    base: float
    sft: float
    ppo: float
    ppo_ptx: float
    drop_ppo: float
    drop_ppo_ptx: float
    share_undone: float | None


class PpoPoint(TypedDict, total=False):
    """One PPO iteration; null if a quantity has no value in it.

    KL in nats per response, entropy in nats per token, length in tokens.
    """

    iteration: int
    reward: float | None
    kl: float | None
    length: float | None
    entropy: float | None
    finished_share: float | None
    policy_loss: float | None
    value_loss: float | None
    explained_variance: float | None
    clip_fraction: float | None
    ptx_loss: float | None


class LossPoint(TypedDict):
    """One logged optimiser step; the loss in nats per token."""

    step: int
    loss: float | None


class RewardPoint(TypedDict):
    """One logged step of reward-model training; the accuracy is on the training batch."""

    step: int
    loss: float | None
    accuracy: float | None


class Curves(TypedDict, total=False):
    """Training curves of each stage."""

    ppo: list[PpoPoint]
    ppo_ptx: list[PpoPoint]
    sft: list[LossPoint]
    reward: list[RewardPoint]


class TranscriptResponse(TypedDict):
    """A model's response, exactly as sampled (untrusted text); with its reward and overall rating if there are any."""

    model: str
    text: str
    reward: float | None
    overall: float | None


class Transcript(TypedDict):
    """One held-out prompt and what each model answered."""

    prompt: str
    use_case: str
    responses: list[TranscriptResponse]


class DataCounts(TypedDict, total=False):
    """How much human (or simulated) data the run used; shown in the loop's picture."""

    prompts: int
    demonstrations: int
    rankings: int
    comparisons: int
    episodes: int


class AlternativeRow(TypedDict):
    """What one way to learn from people's rankings changed, and its cost (SPEC 7)."""

    model: str
    kl: float
    """From the SFT model, nats per response; ``low`` and ``high`` bound its 95 % interval over prompts."""
    low: float
    high: float
    reward: float
    """Mean reward of its answers to the evaluation's prompts."""
    generated_tokens: int
    """Tokens sampled while it was trained."""
    answers_per_prompt: int
    """How many answers it samples to give one: n for best of n."""


class BestOfPoint(TypedDict):
    """Expected reward of the best of n answers of the SFT model, from the stored rewards of all (order statistics)."""

    n: int
    reward: float
    low: float
    high: float
    kl: float


class Alternatives(TypedDict):
    """PPO beside other ways to learn from the same data."""

    rows: list[AlternativeRow]
    best_of_n: list[BestOfPoint]


class RefusalCategory(TypedDict):
    """What the model declines, and how much its examples counted in training; 0: they did not."""

    name: str
    covers: str
    weight: float


class RefusalRate(TypedDict):
    """How often a model declines held-out prompts of a category that it should decline, or should answer (near misses).

    The category ``all other prompts`` is that of the evaluation's prompts. The interval is over the prompts' owners.
    """

    model: str
    category: str
    should: Literal["decline", "answer"]
    declined: Estimate


class RefusalResults(TypedDict):
    """Refusals that the project configures (SPEC 7)."""

    categories: list[RefusalCategory]
    rates: list[RefusalRate]


class _RunKeys(TypedDict):
    heedful: str
    seed: int
    labelers: Literal["simulated", "people"]
    project: str
    models: list[Model]


class _RoundBenchmarkKeys(TypedDict):
    name: str
    metric: str
    policy: float | None
    against: float | None
    drop: float | None


class RoundBenchmark(_RoundBenchmarkKeys, total=False):
    """Scores of a round's new policy and of the one before; ``drop`` is how far the new one is below, in points.

    null: no item of a public benchmark had a score (QuAC does not score items on which people disagree). ``allowed``: for a
    public benchmark, how many points the rule lets it fall; the miniature's use ``largest_drop``. ``drop_low``, ``drop_high``:
    the drop's 95 % interval over items that both policies answered; null if unknown (a single item). Rounds that began with
    an earlier version have none.
    """

    allowed: float
    drop_low: float | None
    drop_high: float | None


class Round(TypedDict):
    """A further round of feedback: its questions, how its policy compares with the last one, and the decision (SPEC 3.8).

    ``win_rate``: how often held-out labelers prefer ``policy`` to ``against``, a tie counted half; null without judgements.
    ``num_judgements``: null if the simulated labelers' average was computed instead. ``confidence`` and ``largest_drop`` are
    the rule, written down when the round began. ``current``: the policy after the round.
    """

    number: int
    prompts_arrived: int
    choose: str
    rankings: int
    policy: str
    against: str
    win_rate: float | None
    low: float | None
    high: float | None
    num_prompts: int
    num_judgements: int | None
    benchmarks: list[RoundBenchmark]
    confidence: float
    largest_drop: float
    accepted: bool
    reasons: list[str]
    current: str


class Results(_RunKeys, total=False):
    """``results.json``. The first five keys are always there; the other sections only if they were measured."""

    data: DataCounts
    preference: Preference
    expected_preference: ExpectedPreference
    ratings: list[Ratings]
    closed_domain_hallucination: list[ClosedDomainHallucination]
    reward_model: RewardModel
    prefix: Prefix
    sft_checkpoints: list[SftCheckpoint]
    left_out: dict[str, str]
    sft_validation: list[LossPoint]
    benchmarks: list[Benchmark]
    alignment_tax: list[AlignmentTax]
    alternatives: Alternatives
    refusals: RefusalResults
    curves: Curves
    transcripts: list[Transcript]
    rounds: list[Round]


class _StageTimeKeys(TypedDict):
    stage: str
    seconds: float


class StageTime(_StageTimeKeys, total=False):
    """Wall-clock seconds of one stage, and seconds of the processor (older versions did not measure them)."""

    processor_seconds: float


class Timings(TypedDict):
    """``timings.json``: what differs between machines and runs."""

    stages: list[StageTime]
    total_seconds: float
    peak_memory_bytes: int
    machine: str


def as_estimate(estimate: statistics.Estimate) -> Estimate:
    """Convert an estimate to JSON. The caller leaves out those with count 0, whose value is NaN."""
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "count": estimate.count}
