"""``heedful serve`` serves models behind OpenAI's API; ``heedful up`` starts them together with the web application."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from heedful.cli.align_verbs import MINIATURE_FOLDER
from heedful.cli.options import load_project, optional, say

if TYPE_CHECKING:
    from heedful.serve.served_models import ModelSource

NEW_FOLDER = Path("playground")
"""Where `heedful up` keeps people's work without a project."""


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Serve models behind OpenAI's API: completions, chat, log-probs, scores.

    - MODEL is a folder in Hugging Face format, NAME=FOLDER, or a project, which
      stands for its base, SFT, PPO and reward models.
    - Any client for OpenAI's API works: its base URL is the address with /v1.
    - For other machines to reach it, it needs an API key: --api-keys, or the
      variable HEEDFUL_API_KEY.
    - After SIGTERM or Ctrl-C, it finishes running requests and refuses new ones.
    - More is in docs/serving.md.
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL [MODEL ...]")]
    """Folders of models, NAME=FOLDER, or projects."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0: every address of this machine."""
    port: int = 8001
    """Port to listen on; 0: any free port."""
    api_keys: Annotated[Path | None, optional("FILE")] = None
    """File of API keys; each line is KEY, or KEY MODEL ... for a key that may use only these models."""
    template: Annotated[str | None, optional("TEMPLATE")] = None
    """How conversations become tokens: plain, chat, or a file with a Jinja template (else as in the model's project, else
    chat if the tokenizer has a template)."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """The type to compute in."""
    slots: int = 64
    """How many responses each model writes at the same time."""
    waiting: int = 512
    """How many responses may wait for a slot; further requests are refused with status 429."""
    seconds: float = 600.0
    """The longest time that a request may take."""
    drain_seconds: float = 60.0
    """How long running requests may continue after SIGTERM."""

    def run(self, console: Console) -> None:
        """Serve until told to stop. Raises UserError, MissingError, ModelError."""
        from heedful.errors import ConfigError
        from heedful.project.project import template_text
        from heedful.serve.served_models import sources_of
        from heedful.serve.server import Address, serve
        from heedful.serve.serving_state import Limits

        sources = sources_of(self.models, None if self.template is None else template_text(self.template))
        if not sources:
            raise ConfigError("no model to serve", expected="MODEL ...", got="none", next_step="name a model's folder")
        limits = Limits(slots=self.slots, waiting=self.waiting, seconds=self.seconds, drain_seconds=self.drain_seconds)
        serve(
            sources,
            Address(host=self.host, port=self.port),
            limits,
            key_file=self.api_keys,
            precision=self.precision,
            say=lambda message: say(console, message),
        )


@dataclass(frozen=True, kw_only=True)
class Up:
    """Start the web application and the models that people talk to, in one command.

    - With PROJECT: its finished base, SFT and PPO models. Models that finish
      later, such as the policy of another round, are added.
    - With a model's folder: that model; people's work is kept in ./playground.
    - Without either: the models of ./miniature if it exists (`heedful align`
      makes it), else the small base models that ship with Heedful.
    - The first start prints a link to join as admin.
    - Only this machine can reach it; for a team, use `heedful serve` and
      `heedful web`.
    """

    project: Annotated[Path | None, tyro.conf.Positional, optional("[PROJECT]")] = None
    """A project's or a model's folder (else ./miniature, else the base models that ship with Heedful)."""
    port: int = 8000
    """Port of the application; 0: any free port."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """The type that the models compute in."""

    def run(self, console: Console) -> None:
        """Serve both until interrupted. Raises UserError, MissingError, ModelError."""
        from heedful.listening import listen
        from heedful.serve.server import serving
        from heedful.serve.serving_state import Limits
        from heedful.web.serving import Listening, serve

        def tell(message: str) -> None:
            say(console, message)

        listening = Listening(port=self.port)
        folder, sources = _to_compare(self.project)

        def finished() -> list[ModelSource]:
            return _to_compare(self.project)[1]

        # Listen before the models are loaded, so that a port in use is noticed at once.
        with (
            closing(listen(listening.host, listening.port, command="heedful up")) as listener,
            serving(sources, Limits(), precision=self.precision, say=tell, later=finished) as address,
        ):
            tell(f"the models answer at {address}")
            serve(folder, listening, database_url=None, say=tell, model_server=address, listener=listener)


def _to_compare(project: Path | None) -> tuple[Path, list[ModelSource]]:
    """The folder that keeps the labels, and the models to compare. Raises MissingError, ConfigError."""
    from heedful.miniature.preparation import base_model_folder
    from heedful.project.project import CONFIG_FILE
    from heedful.serve.served_models import REWARD_MODEL, ModelSource, project_models, sources_of

    if project is None and (MINIATURE_FOLDER / CONFIG_FILE).is_file():
        project = MINIATURE_FOLDER
    if project is not None and not (project / CONFIG_FILE).is_file() and (project / "config.json").is_file():
        NEW_FOLDER.mkdir(exist_ok=True)
        return NEW_FOLDER, sources_of([str(project)])
    if project is not None:
        # People talk to the others; a reward model only scores.
        return project, [source for source in project_models(load_project(project)) if source.name != REWARD_MODEL]
    NEW_FOLDER.mkdir(exist_ok=True)
    sizes = ("small", "medium")
    return NEW_FOLDER, [ModelSource(name=f"base-{size}", folder=base_model_folder(size), template="plain") for size in sizes]
