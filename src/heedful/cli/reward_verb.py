"""``heedful evaluate reward``: how often a reward model orders responses as labelers do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from heedful.cli.options import DatabaseOption, load_project, optional, say
from heedful.errors import ConfigError

if TYPE_CHECKING:
    from heedful.project.project import Project
    from heedful.serve.served_models import ModelSource


@dataclass(frozen=True, kw_only=True)
class EvaluateReward:
    """Measure a reward model on rankings: does it beat simple rules such as length?

    - Accuracy by K, use case, labeler and margin, with intervals that hold for
      other prompts and labelers; calibration; best of n.
    - It is compared with "the longer wins", "the shorter wins", and a bag of
      words that learns from the project's training rankings.
    - --project: the project's rankings of prompts outside the split train.
    - --rankings: all rankings of a file in any format that `heedful import`
      reads. With --project too, the project only supplies the bag of words'
      training rankings and the limits.
    - For example: heedful evaluate reward mine/runs/reward-1/model \\
        --project mine --json reward.json --html reward.html
    """

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="REWARD_MODEL")]
    """The folder of a reward model in Hugging Face format, or of a project that has trained one."""
    project: Annotated[Path | None, optional("PROJECT")] = None
    """The project whose rankings are used."""
    rankings: Annotated[Path | None, optional("FILE")] = None
    """A file of rankings or preferences, instead of the project's."""
    database: DatabaseOption = None
    template: Annotated[Literal["plain", "chat"] | None, optional("{plain,chat}")] = None
    """How prompts become tokens (else as in the project that made the model, else chat if its tokenizer has a template)."""
    max_prompt_tokens: Annotated[int | None, optional("N")] = None
    """Leave out longer prompts (else the project's limit for its reward model, else the context window)."""
    max_response_tokens: Annotated[int | None, optional("N")] = None
    """Cut longer responses here (else as for prompts)."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """The type to compute in."""
    confidence: float = 0.95
    """Confidence level of all intervals."""
    json: Annotated[Path | None, optional("FILE", "Also write the numbers to this file, as JSON.")] = None
    html: Annotated[Path | None, optional("FILE", "Also write a page with plots to this file.")] = None

    def run(self, console: Console) -> None:
        """Score, print the tables, write the files. Raises ConfigError, MissingError, ModelError, DataError, StorageError."""
        from heedful.evaluate.results_file import save_numbers
        from heedful.evaluate.reward_evaluation import as_numbers, evaluate_reward, in_words
        from heedful.evaluate.reward_page import write_reward_page
        from heedful.evaluate.reward_rankings import rankings_of_file, rankings_of_project, training_rankings_of
        from heedful.evaluate.reward_scoring import score_ranked
        from heedful.serve.served_models import load

        self._check()
        project = None if self.project is None else load_project(self.project)
        if self.rankings is not None:
            given = rankings_of_file(self.rankings)
        else:
            assert project is not None, "checked above"
            given = rankings_of_project(project, self.database)
        training = None if project is None else training_rankings_of(project, given)
        served = load(self._source(project), self.precision)
        if not served.scores:
            raise ConfigError(
                "this is not a reward model",
                expected="a sequence classification model with one label",
                got="a causal language model",
                where=self.model,
                next_step="give the folder of a reward model, such as runs/reward-1/model in a project",
            )
        prompt_limit, response_limit = self._limits(project)
        scores = score_ranked(
            served.model,
            served.tokenizer,
            given,
            template=served.template,
            max_prompt_tokens=prompt_limit,
            max_response_tokens=response_limit,
            console=console,
        )
        found = evaluate_reward(served.name, given, scores, training=training, confidence=self.confidence)
        say(Console(), in_words(found))
        if self.json is not None:
            save_numbers(self.json, as_numbers(found))
            say(console, f"numbers: {self.json}")
        if self.html is not None:
            write_reward_page(found, self.html)
            say(console, f"page: {self.html}")

    def _check(self) -> None:
        from heedful.statistics import check_confidence

        if self.project is None and self.rankings is None:
            raise ConfigError(
                "there are no rankings to measure the reward model on",
                expected="--project, or --rankings FILE, or both",
                got="neither",
                next_step="heedful evaluate reward REWARD_MODEL --project FOLDER",
            )
        if self.database is not None and self.rankings is not None:
            raise ConfigError(
                "rankings come from one place", expected="--database or --rankings", got="both", next_step="leave one out"
            )
        for name, value in (
            ("--max-prompt-tokens", self.max_prompt_tokens),
            ("--max-response-tokens", self.max_response_tokens),
        ):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is too small", expected="at least 1", got=str(value))
        check_confidence(self.confidence)

    def _source(self, project: Project | None) -> ModelSource:
        """The given reward model, or the one that the given project has trained."""
        from dataclasses import replace

        from heedful.serve.served_models import REWARD_MODEL, sources_of

        sources = sources_of([str(self.model)], self.template)
        if len(sources) == 1 and sources[0].folder == self.model.expanduser():
            (source,) = sources
            return source if source.template or project is None else replace(source, template=project.template)
        trained = next((source for source in sources if source.name == REWARD_MODEL), None)
        if trained is None:
            raise ConfigError(
                "the project has not trained a reward model",
                expected="a finished run of the stage reward",
                got=f"finished: {', '.join(source.name for source in sources)}",
                where=self.model,
                next_step="run `heedful align`, or give the folder of a reward model",
            )
        return trained

    def _limits(self, project: Project | None) -> tuple[int | None, int | None]:
        from heedful.presets import resolved_preset

        limits = None if project is None else resolved_preset(project).reward
        return (
            self.max_prompt_tokens if limits is None or self.max_prompt_tokens else limits.max_prompt_tokens,
            self.max_response_tokens if limits is None or self.max_response_tokens else limits.max_response_tokens,
        )
