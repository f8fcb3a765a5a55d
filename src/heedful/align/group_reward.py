"""The stage that makes one reward model from groups of labelers, with weights that you choose (SPEC 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from heedful.align.encoded_records import encoded_rankings
from heedful.align.settings import Given, write_json
from heedful.align.train_stages import trained_before
from heedful.errors import ConfigError
from heedful.model.chat_template import keep_template
from heedful.model.encoding import RankedPrompt, encode_demonstrations
from heedful.model.inference import first_device, reward_model_for_inference
from heedful.model.loading import load_scalar_model, load_tokenizer
from heedful.model.readout import score
from heedful.model.scalar_models import scalar_head, shift_scalar_model
from heedful.project.selection import demonstrations_of
from heedful.ranks.rank_zero import barrier_without_timeout
from heedful.ranks.world import world
from heedful.records import Split
from heedful.training.fitted_head import response_features, set_head
from heedful.training.group_heads import combined_head, fit_head, head_accuracy, of_group
from heedful.training.sharding import save_gathered

GROUPS_FILE = "groups.json"


def reward_by_group(given: Given, *, folder: Path, console: Console) -> None:
    """Fit a head for each group on the reward model's body, and make the model whose reward is the groups' weighted mean.

    Writes groups.json: the share of each group's validation comparisons that its own head, the head of all labelers and the
    combined head order correctly. Raises ConfigError if a group has no ranking.
    """
    if trained_before(folder, given.stage.name, console):
        return
    config, limits, start = given.config, given.setting.preset.reward, given.run_of("reward") / "model"
    tokenizer = load_tokenizer(start)
    keep_template(tokenizer, given.setting.template)
    train, valid = encoded_rankings(given, limits, tokenizer, console, with_ties=False)
    _require_rankings(given, train, config.members)
    reader = reward_model_for_inference(start, limits.precision)
    features, unseen = (
        response_features(reader, rankings, tokens_per_microbatch=limits.tokens_per_microbatch) for rankings in (train, valid)
    )
    shared = scalar_head(reader).weight[0].detach().float().cpu()
    heads = {
        name: fit_head(shared, *of_group(train, features, members), pull=config.pull)
        for name, members in config.members.items()
    }
    combined = combined_head(heads, config.weights)
    rows = [
        _row(
            name, config, len(of_group(train, features, members)[0]), of_group(valid, unseen, members), heads, shared, combined
        )
        for name, members in config.members.items()
    ]
    for row in rows:
        said = "; ".join(f"{key} {row[key]:.1%}" for key in ("own", "all_labelers", "combined") if row[key] is not None)
        console.print(f"{row['group']}: weight {row['weight']:g}, {row['prompts']:,} prompts; {said}", highlight=False)
    write_json(folder / GROUPS_FILE, rows)
    model = load_scalar_model(start, "float32").to(first_device())  # pyright: ignore[reportArgumentType]
    set_head(model, combined)
    if (mean := _demonstrations_mean(given, model, tokenizer)) is not None:
        shift_scalar_model(model, -mean)
    save_gathered(model if world().is_rank_zero else None, tokenizer, folder / "model")
    barrier_without_timeout()


def _row(
    name: str,
    config: Any,
    prompts: int,
    unseen: tuple[list[RankedPrompt], list[Tensor]],
    heads: Mapping[str, Tensor],
    shared: Tensor,
    combined: Tensor,
) -> dict[str, Any]:
    rankings, features = unseen
    found: dict[str, Any] = {"group": name, "weight": config.weights[name], "prompts": prompts, "comparisons": 0}
    for key, head in (("own", heads[name]), ("all_labelers", shared), ("combined", combined)):
        found[key], found["comparisons"] = head_accuracy(head, rankings, features) if rankings else (None, 0)
    return found


def _require_rankings(given: Given, rankings: Sequence[RankedPrompt], members: Mapping[str, Sequence[str]]) -> None:
    known = {labeler for ranked in rankings for labeler in ranked.labelers}
    for name, labelers in members.items():
        if not known & set(labelers):
            raise ConfigError(
                f"the group {name!r} of [reward_by_group] has no ranking",
                expected=f"pseudonyms of labelers who ranked, such as {', '.join(sorted(known)[:8])}",
                got=", ".join(labelers) or "no labeler",
                where=given.setting.project.config_file,
                next_step="correct the pseudonyms, or take the group out of members and weights",
            )


def _demonstrations_mean(given: Given, model: Any, tokenizer: Any) -> float | None:
    """Mean reward of demonstrations, as in the reward model's own stage: of the split valid, or of train if valid has none."""
    limits, records = given.setting.preset.reward, given.records
    splits: tuple[Split, ...] = ("valid", "train")
    for split in splits:
        found, _ = encode_demonstrations(
            tokenizer,
            records.prompts,
            demonstrations_of(records, split),
            max_prompt_tokens=limits.max_prompt_tokens,
            max_response_tokens=limits.max_response_tokens,
            template=given.setting.template,
            may_be_empty=True,
        )
        if found:
            return float(score(model, [d.prompt for d in found], [d.response for d in found]).mean())
    return None
