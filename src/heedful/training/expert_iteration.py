"""Expert iteration (SPEC 7): in rounds, the policy answers, the reward model chooses, and the policy learns the chosen answers.

A round is one :func:`step`: it samples several answers to each of its prompts, scores them, and fine-tunes the policy on the
best answer to each prompt (:mod:`heedful.training.sft`). The next round starts from the policy that this round trained.
A round writes its answers to ``round-N/answers.jsonl`` before it trains, so a restart after a kill need not sample them again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.errors import DataError
from heedful.model.encoding import Example
from heedful.model.end_tokens import end_tokens
from heedful.model.engine.sampling import Sampling, request_seeds
from heedful.model.engine.vllm_engine import generator
from heedful.model.inference import first_device, policy_for_inference
from heedful.model.loading import load_causal_model
from heedful.model.readout import score
from heedful.model.saving import write_folder
from heedful.project.files import read_jsonl, write_jsonl
from heedful.ranks.batch_shares import own_indices
from heedful.ranks.collectives import gather_in_order
from heedful.ranks.rank_zero import barrier_without_timeout, on_rank_zero
from heedful.ranks.world import across_ranks, world
from heedful.training.alternatives_config import ExpertIterationConfig
from heedful.training.config import SFTConfig
from heedful.training.run import Run
from heedful.training.sft import SFTData, train_sft

ANSWERS_FILE = "answers.jsonl"
_BATCH = 1_024


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a round: the index of its prompt, its tokens, whether it reached its end, and its reward."""

    prompt: int
    tokens: list[int]
    finished: bool
    reward: float


@dataclass(slots=True, kw_only=True)
class Training:
    """An expert iteration run between two rounds; ``done`` counts rounds."""

    config: ExpertIterationConfig
    run: Run
    tokenizer: PreTrainedTokenizerBase
    start: Path
    reward_model: PreTrainedModel
    prompts: Sequence[list[int]]
    done: int

    def round_folder(self, number: int) -> Path:
        """The folder of round ``number``, counted from 0."""
        return self.run.folder / f"round-{number + 1}"

    def policy(self, number: int) -> Path:
        """The folder of the model that answers in a round: in round 0 the given model, later that of the round before."""
        return self.start if number == 0 else self.round_folder(number - 1) / "model"


@across_ranks
def train_expert_iteration(
    start: Path,
    reward_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    config: ExpertIterationConfig,
    folder: Path,
    *,
    console: Console | None = None,
    title: str = "expert_iteration",
) -> Path:
    """Let the policy in the folder ``start`` learn its own best answers to ``prompts``; returns the folder of the last policy.

    reward_model: in the compute type; it does not change. Raises CheckError, ConfigError, DataError, LostRankError,
    MissingError, ModelError, NumericalError, StorageError.
    """
    generator(config.engine)  # if vLLM is missing, raise now, not after loading a model
    run = Run(folder, config, title=title, console=console)
    training = prepare(start, reward_model, tokenizer, prompts, config, run)
    with run.progress(config.rounds, done=training.done, unit="rounds") as progress:
        for number in range(training.done, config.rounds):
            metrics = step(training, number)
            progress.advance(note=f"reward {metrics['reward']:+.2f}, of the best {metrics['best_reward']:+.2f}")
            record(training, number, metrics)
    return finish(training)


def prepare(
    start: Path,
    reward_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    config: ExpertIterationConfig,
    run: Run,
) -> Training:
    """Find out from the last checkpoint how many rounds are done. Raises DataError if there is no prompt."""
    if not prompts:
        raise DataError("there is no prompt to answer", expected="at least one training prompt", got="none")
    state = run.resume(reward_model=reward_model, prompts=prompts)
    if state is None:
        run.save(0)  # records which configuration and inputs the rounds' folders belong to
    return Training(
        config=config,
        run=run,
        tokenizer=tokenizer,
        start=start,
        reward_model=reward_model,
        prompts=prompts,
        done=0 if state is None else int(state["step"]),
    )


def step(training: Training, number: int) -> dict[str, float]:
    """One round: answer, score, choose, learn; returns its metrics."""
    config, folder = training.config, training.round_folder(number)
    answers = answers_of(training, number)
    best = best_answers(answers)
    examples = [Example(training.prompts[answer.prompt], answer.tokens) for answer in best]
    if not (folder / "model").is_dir():  # if it exists, the run was killed after saving it
        model = load_causal_model(training.policy(number), config.precision if config.lora_rank else "float32")
        if world().size == 1:
            model = model.to(first_device())  # pyright: ignore[reportArgumentType]
        title = f"{training.run.title}, round {number + 1}"
        data = SFTData(examples, examples[:100])
        train_sft(model, training.tokenizer, data, _learning(config), folder, console=training.run.console, title=title)
    return {
        "reward": sum(answer.reward for answer in answers) / len(answers),
        "best_reward": sum(answer.reward for answer in best) / len(best),
        "finished_share": sum(answer.finished for answer in answers) / len(answers),
        "learned": len(best),
        "generated_tokens": sum(len(answer.tokens) for answer in answers),
    }


def record(training: Training, number: int, metrics: dict[str, float]) -> None:
    """After a round: log it, write a checkpoint, and remove the models that are no longer needed."""
    training.run.log(number, metrics)
    training.run.save(number + 1)
    if world().is_rank_zero:
        shutil.rmtree(training.round_folder(number) / "candidates", ignore_errors=True)
        if number:
            shutil.rmtree(training.round_folder(number - 1) / "model", ignore_errors=True)
    barrier_without_timeout()


def finish(training: Training) -> Path:
    """Copy the last round's model to the run's model folder and remove all rounds' answers; returns that folder."""
    run, last = training.run, training.round_folder(training.config.rounds - 1) / "model"

    def place() -> None:
        write_folder(run.model_folder, lambda aside: copy_into(last, aside))
        shutil.rmtree(last, ignore_errors=True)
        # Answers may quote prompts, and `heedful prompts forget` cannot find these in token ids.
        for number in range(training.config.rounds):
            (training.round_folder(number) / ANSWERS_FILE).unlink(missing_ok=True)

    on_rank_zero(place)
    run.finish()
    return run.model_folder


def answers_of(training: Training, number: int) -> list[Answer]:
    """A round's answers with their rewards, from the round's folder if they are there, else sampled."""
    path = training.round_folder(number) / ANSWERS_FILE
    if not on_rank_zero(path.is_file):
        answers = _sampled(training, number)
        on_rank_zero(lambda: _write(path, answers))
    return [Answer(**row) for _, row in read_jsonl(path)]


def best_answers(answers: Sequence[Answer]) -> list[Answer]:
    """Each prompt's finished answer with the highest reward (the first if equal). Raises DataError if no answer is finished.

    Answers that were cut are left out, because the policy would unlearn how to end.
    """
    best: dict[int, Answer] = {}
    for answer in answers:
        if answer.finished and (answer.prompt not in best or answer.reward > best[answer.prompt].reward):
            best[answer.prompt] = answer
    if not best:
        raise DataError(
            "no answer reached its end",
            expected="at least one answer within max_response_tokens",
            got=f"{len(answers):,} answers that were cut",
            next_step="raise max_response_tokens in [expert_iteration]",
        )
    return [best[prompt] for prompt in sorted(best)]


@torch.no_grad()
def _sampled(training: Training, number: int) -> list[Answer]:
    """Sample ``samples`` answers of the policy to each prompt of the round and score them; all ranks return all of them."""
    config, prompts = training.config, training.prompts
    rng = np.random.default_rng([config.seed, number])
    chosen = sorted(rng.permutation(len(prompts))[: config.prompts].tolist())
    asked = [prompt for prompt in chosen for _ in range(config.samples)]
    seeds = request_seeds(config.seed, stream=f"round {number + 1}", count=len(asked))
    model, tokenizer = policy_for_inference(training.policy(number), config.precision)
    sampling = Sampling(
        max_tokens=config.max_response_tokens,
        temperature=config.temperature,
        stop_tokens=end_tokens(model, training.tokenizer),
    )
    own = own_indices([len(prompts[i]) for i in asked])
    with training.run.progress(len(own), unit="answers") as progress:
        generated = generator(config.engine)(
            model,
            [prompts[asked[i]] for i in own],
            sampling,
            [seeds[i] for i in own],
            batch_size=_BATCH,
            advance=progress.advance,
            tokenizer=tokenizer,
        )
    barrier_without_timeout()
    generations = gather_in_order(zip(own, generated, strict=True))
    tokens = [list(generation.tokens) for generation in generations]
    rewards = score(
        training.reward_model, [prompts[i] for i in asked], tokens, tokens_per_microbatch=config.tokens_per_microbatch
    )
    return [
        Answer(prompt, row, generation.finished, float(reward))
        for prompt, row, generation, reward in zip(asked, tokens, generations, rewards, strict=True)
    ]


def copy_into(source: Path, folder: Path) -> None:
    """Copy a folder's content into another existing folder."""
    shutil.copytree(source, folder, dirs_exist_ok=True)


def _write(path: Path, answers: Sequence[Answer]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(path, ({f: getattr(answer, f) for f in ("prompt", "tokens", "finished", "reward")} for answer in answers))


def _learning(config: ExpertIterationConfig) -> SFTConfig:
    """The settings for a round's fine-tuning."""
    common: dict[str, Any] = {
        name: getattr(config, name)
        for name in (
            "seed",
            "precision",
            "adam_beta1",
            "adam_beta2",
            "max_gradient_norm",
            "tokens_per_microbatch",
            "activation_checkpointing",
            "checkpoint_seconds",
            "keep_checkpoints",
            "tensorboard",
            "epochs",
            "learning_rate",
            "final_learning_rate_share",
            "batch_size",
            "max_prompt_tokens",
            "max_response_tokens",
            "lora_rank",
        )
    }
    return SFTConfig(**common, residual_dropout=0.0, candidates=1)
