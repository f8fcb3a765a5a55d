"""Which records each stage uses. Labels made for evaluation reach no training loop: only this module picks labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

from heedful.project.data_folder import Records
from heedful.project.fingerprints import digest_of_records
from heedful.records import Demonstration, Prompt, Ranking, Split


def demonstrations_of(records: Records, split: Split) -> list[Demonstration]:
    """A split's demonstrations of the phase training, in the order of the file."""
    return [d for d in records.demonstrations.values() if records.prompts[d.prompt_id].split == split and may_train(d)]


def prompts_of(records: Records, split: Split) -> list[Prompt]:
    """A split's prompts, in the order of the file."""
    return [prompt for prompt in records.prompts.values() if prompt.split == split]


def prompts_for_policy(records: Records, prompts: Sequence[Prompt]) -> tuple[list[Prompt], str]:
    """Which of the prompts the policy answers in PPO and for ranking tasks, and the choice in words.

    The paper gave these steps prompts of their own (SPEC 1.4). So only prompts without a demonstration are used, if they are at
    least half. Otherwise all are used: a few would be too little to train on.
    """
    with_one = {d.prompt_id for d in records.demonstrations.values() if may_train(d)}
    free = [prompt for prompt in prompts if prompt.id not in with_one]
    if len(free) == len(prompts):
        return free, f"all {len(free):,} (none has a demonstration)"
    if free and 2 * len(free) >= len(prompts):
        return free, f"{len(free):,} without a demonstration; the other {len(prompts) - len(free):,} have one"
    return list(prompts), f"all {len(prompts):,}, as only {len(free):,} have no demonstration"


def training_rankings(records: Records, split: Split) -> list[Ranking]:
    """A split's rankings of the phase training, without those of held-out labelers (SPEC 2.4)."""
    return [r for r in records.rankings.values() if records.prompts[r.prompt_id].split == split and may_train(r)]


def without_labels(records: Records) -> Records:
    """Prompts and demonstrations only: what policies are trained on. Rankings are most of a project's data."""
    return Records(prompts=records.prompts, demonstrations=records.demonstrations)


def for_reward_model(records: Records) -> Records:
    """Prompts, demonstrations, responses, and the rankings that may train: no label made for evaluation is left."""
    rankings = {id: ranking for id, ranking in records.rankings.items() if may_train(ranking)}
    return Records(
        prompts=records.prompts, demonstrations=records.demonstrations, responses=records.responses, rankings=rankings
    )


def digest_of_demonstrations(records: Records) -> str:
    """Changes whenever a prompt or a demonstration does."""
    return digest_of_records([*records.prompts.values(), *records.demonstrations.values()])


def digest_of_rankings(records: Records) -> str:
    """Changes whenever the rankings that the reward model learns from, or is validated on, do. Other records don't count."""
    rankings = [*training_rankings(records, "train"), *training_rankings(records, "valid")]
    named = {i: records.responses[i] for r in rankings for i in r.response_ids}
    return digest_of_records([*rankings, *named.values()])


def may_train(label: Demonstration | Ranking) -> bool:
    """Whether a model may learn from a label: not if it is for evaluation or screening, or by a held-out labeler."""
    return label.phase == "training" and label.metadata.get("group") != "held_out"


def all_in_one_split(prompts: Iterable[Prompt]) -> str | None:
    """The warning that all prompts are in one split because they belong to few users, or None."""
    found = list(prompts)
    return one_split_warning(len(found), {prompt.user for prompt in found}, {prompt.split for prompt in found})


def one_split_warning(number: int, users: Set[str | None], splits: Set[Split]) -> str | None:
    """Like :func:`all_in_one_split`, for a number of prompts with these users and splits."""
    if number < 2 or len(splits) != 1 or None in users:
        return None
    (split,) = splits
    missing = {"train": "evaluate on", "valid": "train on", "test": "train on"}[split]
    whose = "belong to one user, so all" if len(users) == 1 else f"belong to {len(users):,} users who"
    return (
        f"all {number:,} prompts {whose} are in {split}: there is nothing to {missing}. "
        "Add prompts of other users, or import the file into a new project by `heedful import` with --split-by prompt"
    )
