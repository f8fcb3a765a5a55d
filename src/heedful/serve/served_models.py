"""The models that a server offers: which folders, under which names, with which template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heedful.errors import ConfigError, MissingError
from heedful.evaluate.lineup import BASE, PPO, PPO_PTX, SFT
from heedful.model.chat_template import Template, answer_frame, jinja_of
from heedful.model.context_window import context_window
from heedful.model.end_tokens import end_tokens, response_end
from heedful.model.inference import policy_for_inference, reward_model_for_inference
from heedful.model.loading import load_configuration, load_tokenizer
from heedful.model.precision import Precision
from heedful.project.ended_rounds import current_policy
from heedful.project.project import CONFIG_FILE, Project
from heedful.project.runs import newest_done
from heedful.serve.token_text import TokenText

MODEL_FOLDER = "model"
REWARD_MODEL = "reward"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model to serve. template: None if the folder decides."""

    name: str
    folder: Path
    template: Template | None = None


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A loaded model: a policy, which writes, or a reward model, which scores."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template: Template
    scores: bool = False

    @cached_property
    def token_text(self) -> TokenText:
        return TokenText(self.tokenizer)

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end a response."""
        return end_tokens(self.model, self.tokenizer, self.template)

    @cached_property
    def response_end(self) -> int:
        """The token that ends a finished response in the reward model's training."""
        return response_end(self.tokenizer, self.template)

    @cached_property
    def frame(self) -> tuple[str, str]:
        """What the chat template writes between an answer's beginning and its text, and after the text."""
        frame = answer_frame(self.tokenizer, self.template)
        return ("", "") if frame is None else (frame.before, frame.before_end)

    @property
    def template_name(self) -> str:
        """``plain``, ``chat``, or ``jinja`` for a template of the project's own."""
        return self.template if self.template in ("plain", "chat") else "jinja"

    @cached_property
    def window(self) -> int | None:
        """Tokens that prompt and response may have together; None: no limit."""
        return context_window(self.model)

    @cached_property
    def num_tokens(self) -> int:
        """Token ids that the model knows."""
        embedding = self.model.get_input_embeddings()
        return int(embedding.weight.shape[0])  # pyright: ignore[reportIndexIssue]


def sources_of(arguments: Sequence[str], template: Template | None = None) -> list[ModelSource]:
    """The models that the command line names: FOLDER, NAME=FOLDER, or a project, which stands for its finished models.

    Raises MissingError, ConfigError (two models of one name).
    """
    sources: list[ModelSource] = []
    for argument in arguments:
        name, equals, path = argument.partition("=")
        folder = Path(path if equals else argument).expanduser()
        if not equals and (folder / CONFIG_FILE).is_file():
            sources += project_models(Project.load(folder))
        else:
            sources.append(
                ModelSource(name=name if equals else _name_of(folder), folder=folder, template=_template_near(folder))
            )
    if template is not None:
        sources = [replace(source, template=template) for source in sources]
    names = [source.name for source in sources]
    for name in names:
        if not name:
            raise ConfigError("a model has no name", expected="NAME=FOLDER", got=repr(arguments))
        if names.count(name) > 1:
            raise ConfigError(
                "two models have the same name",
                expected="a name for each",
                got=f"{name!r} twice: {', '.join(str(source.folder) for source in sources if source.name == name)}",
                next_step="give them names: heedful serve first=FOLDER second=FOLDER",
            )
    return sources


def project_models(project: Project) -> list[ModelSource]:
    """A project's base model, and its SFT model, PPO-ptx policy (else PPO) and reward model as far as they are finished.

    After further rounds of feedback also the current policy, ``policy_<round>``, if one of them was accepted.
    """
    finished = {name: newest_done(project.runs, name) for name in ("sft", "ppo", "ppo_ptx", "reward")}
    folders: dict[str, Path | None] = {
        BASE.name: project.model_folder(project.base_model),
        SFT.name: _chosen_sft(project, finished["sft"]),
        PPO_PTX.name: finished["ppo_ptx"] and finished["ppo_ptx"] / MODEL_FOLDER,
    }
    if finished["ppo_ptx"] is None and finished["ppo"] is not None:
        folders[PPO.name] = finished["ppo"] / MODEL_FOLDER
    newest = current_policy(project.runs)
    if newest is not None and newest[0] not in (PPO.name, PPO_PTX.name):
        folders[newest[0]] = newest[1]
    folders[REWARD_MODEL] = finished["reward"] and finished["reward"] / MODEL_FOLDER
    return [
        ModelSource(name=name, folder=folder, template=project.template)
        for name, folder in folders.items()
        if folder is not None and (folder / "config.json").is_file()
    ]


def _chosen_sft(project: Project, run: Path | None) -> Path | None:
    """The SFT checkpoint that the reward model chose; until then, the newest."""
    choice = newest_done(project.runs, "choose_sft")
    if run is None:
        return None
    if choice is not None and (choice / "choice.json").is_file():
        rows = json.loads((choice / "choice.json").read_text(encoding="utf-8"))
        return run / next((row["folder"] for row in rows if row.get("chosen")), MODEL_FOLDER)
    return run / MODEL_FOLDER


def load(source: ModelSource, precision: Precision) -> ServedModel:
    """Load a model for inference. Raises MissingError, ModelError."""
    names = load_configuration(source.folder).architectures or []
    if any(name.endswith("ForSequenceClassification") for name in names):
        tokenizer = load_tokenizer(source.folder)
        model = reward_model_for_inference(source.folder, precision)
    else:
        model, tokenizer = policy_for_inference(source.folder, precision)
    template: Template = source.template or ("chat" if getattr(tokenizer, "chat_template", None) else "plain")
    if template == "chat" and jinja_of(tokenizer, template) is None:
        raise ConfigError(
            'the template "chat" needs a tokenizer with a chat template',
            expected="chat_template in the model's folder",
            got="none",
            where=source.folder,
            next_step="leave out --template, or give --template plain",
        )
    scores = any(name.endswith("ForSequenceClassification") for name in names)
    return ServedModel(name=source.name, model=model, tokenizer=tokenizer, template=template, scores=scores)


def _name_of(folder: Path) -> str:
    """The folder's name; for a run's ``model`` folder the run's."""
    resolved = folder.resolve()
    return resolved.parent.name if resolved.name == MODEL_FOLDER else resolved.name


def _template_near(folder: Path) -> Template | None:
    """The template of the project that made the model, if one did."""
    if not folder.is_dir():
        raise MissingError(
            "there is no model here",
            expected="a folder in Hugging Face format, or a project",
            got="a file" if folder.exists() else "nothing",
            where=folder,
            next_step="give the path of a downloaded model, or NAME=FOLDER",
        )
    owner = next((above for above in folder.resolve().parents if (above / CONFIG_FILE).is_file()), None)
    return None if owner is None else Project.load(owner).template
