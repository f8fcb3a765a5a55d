"""``heedful release``: the accepted policy, its card and its reward model in one folder that other tools load.

The folder is a model in Hugging Face format: transformers, vLLM, TRL and ``heedful serve`` load it as it is. Its parts::

    config.json, model.safetensors, tokenizer files   the policy
    reward_model/                                     the reward model that it was trained against
    README.md                                         the model card
    LICENSE, NOTICE ...                               those of the base model, unchanged
    release.json                                      the runs it comes from
    lineage.json                                      everything they were made from; `heedful lineage FOLDER` shows it
    SHA256SUMS                                        of all other files, for `sha256sum --check`
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heedful import __version__
from heedful.errors import DataError, HeedfulError, MissingError, RefusedError
from heedful.evaluate.card_facts import card_facts
from heedful.evaluate.model_card import CARD, write_card
from heedful.lineage.tracing import LINEAGE, published
from heedful.model.saving import ASIDE, write_folder
from heedful.project.ended_rounds import POLICIES, current_policy, newest_policy
from heedful.project.outputs import check_outputs
from heedful.project.project import Project
from heedful.project.runs import newest_done, stage_folders, stage_state

CHECKSUMS = "SHA256SUMS"
RELEASE_FILE = "release.json"
REWARD_MODEL = "reward_model"
_LEGAL = ("license", "licence", "notice", "copying")


@dataclass(frozen=True, slots=True)
class Released:
    """The contents of a release, and warnings for its publisher."""

    folder: Path
    policy: Path
    """The run of the policy."""
    reward: Path | None
    """The run of its reward model."""
    warnings: tuple[str, ...]


def release(project: Project, folder: Path, *, model: str | None = None, notes: str | None = None) -> Released:
    """Write the release into ``folder``, completely or not at all. An earlier release there is replaced.

    model: a stage's or run's name (ppo, dpo, ppo_ptx-2). None: the policy that the last round of feedback accepted; before any
    round ended, PPO-ptx, else PPO. notes: Markdown for the card, about the model's purpose.
    Raises MissingError for what is not finished, DataError for damaged outputs, RefusedError for a folder that holds something
    else, StorageError.
    """
    run = _policy_run(project, model)
    reward = _reward_run(project, run)
    _refuse_other_content(folder)
    for one in (run, *([] if reward is None else [reward])):
        check_outputs(str(stage_state(one)["stage"]), one, stage_state(one))
    facts = card_facts(project, run.name)
    _require_evaluation(project, run)
    legal = [] if facts.base is None else _legal_files(Path(facts.base.path))

    def write(aside: Path) -> None:
        _copy_model(run / "model", aside)
        if reward is not None:
            _copy_model(reward / "model", aside / REWARD_MODEL)
        for path in legal:
            shutil.copyfile(path, aside / path.name)
        write_card(facts, aside / CARD, notes=notes)
        lineage = json.dumps(published(facts.lineage), indent=2, ensure_ascii=False)
        (aside / LINEAGE).write_text(lineage + "\n", encoding="utf-8")
        described = {
            "heedful": __version__,
            "project": project.name,
            "policy": _named(run),
            "reward_model": None if reward is None else _named(reward),
            "template": facts.template,
            "base_model": None if facts.base is None else {"digest": facts.base.digest, "license": facts.base.license},
        }
        (aside / RELEASE_FILE).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        (aside / CHECKSUMS).write_text(checksums(aside), encoding="utf-8")

    if folder.parent.is_dir():
        remove_leftovers_of(folder)
    write_folder(folder, write)
    return Released(folder, run, reward, tuple(_warnings(legal, facts, reward)))


def checksums(folder: Path) -> str:
    """Return a line for each file except the list itself, as `sha256sum` writes it, sorted by name."""
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return "".join(f"{_sha256(folder / name)}  {name}\n" for name in paths if name != CHECKSUMS)


def push(folder: Path, repository: str, token: str | None, *, hub: Callable[[str], Any] | None = None) -> str:
    """Upload a release to a private repository of a Hugging Face hub; returns its address.

    token: the user's own, with permission to write. hub: makes the client from a token (tests pass another function).
    Raises MissingError without a token or a release, DataError for a release that was changed, HeedfulError if the hub refuses.
    """
    if not token:
        raise MissingError(
            "there is no token for the hub",
            expected="an access token with the right to write, in the environment variable HF_TOKEN",
            got="none",
            next_step="make one in the settings of your account on the hub, then export HF_TOKEN=...",
        )
    listed = folder / CHECKSUMS
    if not listed.is_file():
        raise MissingError("this is not a release", expected=f"a folder with {CHECKSUMS}", got="none", where=folder)
    if listed.read_text(encoding="utf-8") != checksums(folder):
        raise DataError(
            "the release was changed after it was made",
            expected=f"the files that {CHECKSUMS} lists",
            got="others",
            where=folder,
            next_step="make it again: heedful release",
        )
    try:
        client = (hub or _hub)(token)
        client.create_repo(repository, private=True, exist_ok=True, repo_type="model")
        client.upload_folder(repo_id=repository, folder_path=str(folder), repo_type="model", commit_message="heedful release")
    except HeedfulError:
        raise
    except Exception as error:  # the client raises many kinds of errors: from the network, the hub, the name
        raise HeedfulError(
            "the release could not be uploaded",
            expected=f"a hub that accepts {repository}",
            got=str(error).replace(token, "(token)") or type(error).__name__,
            where=folder,
            next_step="the release itself is complete: remove the cause and push again",
        ) from None  # the original error may hold the token
    return f"{client.endpoint.rstrip('/')}/{repository}"


def remove_leftovers_of(folder: Path) -> None:
    """Remove the leftovers of a killed attempt beside the folder."""
    for path in folder.parent.glob(f"{ASIDE}{folder.name}-*"):
        shutil.rmtree(path, ignore_errors=True)


def _policy_run(project: Project, model: str | None) -> Path:
    """Find the folder of the policy's finished run. Raises MissingError."""
    if model is None:
        found = newest_policy(project.runs)
    else:
        exact = project.runs / model
        is_run = "/" not in model and stage_state(exact).get("done")
        found = exact if is_run else newest_done(project.runs, model)
    if found is not None and (found / "model" / "config.json").is_file():
        return found
    begun = any(stage_folders(project.runs, name) for name in ((model,) if model else POLICIES))
    raise MissingError(
        "there is no finished policy to release",
        expected=f"a finished run of {model or 'ppo_ptx or ppo'} with a model",
        got="a run that is not finished" if begun else "no such run",
        where=project.runs,
        next_step=f"run `heedful align {project.folder}`; `heedful status {project.folder}` lists the stages",
    )


def _reward_run(project: Project, run: Path) -> Path | None:
    """Find the run of the reward model that the policy learned from; if it used none, the newest reward model."""
    wanted = stage_state(run).get("inputs", {}).get("reward")
    for folder in sorted(project.runs.glob("reward*-*")):
        state = stage_state(folder)
        if wanted is not None and state.get("fingerprint") == wanted and state.get("done"):
            return folder
    newest = newest_done(project.runs, "reward")
    if wanted is not None and newest is None:
        raise MissingError(
            "the policy's reward model is gone",
            expected="the finished run that the policy learned from",
            got="none",
            where=project.runs,
            next_step=f"run `heedful align {project.folder}`",
        )
    return newest


def _require_evaluation(project: Project, run: Path) -> None:
    """Raise MissingError unless the policy was evaluated: in the report, or by the rule of a further round."""
    accepted = current_policy(project.runs)
    in_a_round = accepted is not None and accepted[1].parent == run and accepted[0] not in POLICIES
    newest = newest_done(project.runs, "evaluate")
    models = [] if newest is None else stage_state(newest).get("inputs", {}).get("models", [])
    in_report = stage_state(run)["fingerprint"] in models and (project.folder / "results.json").is_file()
    if not in_report and not in_a_round:
        raise MissingError(
            f"{run.name} is not evaluated yet",
            expected="a finished evaluation that compares it",
            got="none",
            where=project.folder,
            next_step=f"run `heedful align {project.folder}` to its report, then release again",
        )


def _refuse_other_content(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RELEASE_FILE).is_file():
        raise RefusedError(
            "the folder holds something else",
            expected="a new folder, an empty one, or an earlier release",
            got=", ".join(sorted(path.name for path in folder.iterdir())[:5]),
            where=folder,
            next_step="give another --output",
        )
    if folder.exists() and not folder.is_dir():
        raise RefusedError("this is a file", expected="a folder", got="a file", where=folder, next_step="give another --output")


def _copy_model(source: Path, folder: Path) -> None:
    """Copy a model's folder without the card that an earlier command may have written there."""
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(CARD, ".*"))


def _legal_files(base: Path) -> list[Path]:
    """Find the license and notice files of the base model."""
    if not base.is_dir():
        return []
    return sorted(path for path in base.iterdir() if path.is_file() and path.name.lower().startswith(_LEGAL))


def _named(run: Path) -> dict[str, Any]:
    state = stage_state(run)
    return {"run": run.name, "stage": state["stage"], "fingerprint": state["fingerprint"]}


def _warnings(legal: list[Path], facts: Any, reward: Path | None) -> list[str]:
    found: list[str] = []
    if not legal:
        stated = None if facts.base is None else facts.base.license
        about = f"its card says {stated}" if stated else "nor does its card say which license it has"
        found.append(f"the base model's folder holds no license file ({about}): check what its license asks of you")
    if facts.results is not None and "preference" not in facts.results:
        found.append("this policy has not been judged yet: the card has no win rates")
    if reward is None:
        found.append("there is no reward model in this release")
    return found


def _hub(token: str) -> Any:
    from huggingface_hub import HfApi

    return HfApi(token=token)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
