"""``heedful evaluate people``: labelers compare models on held-out owners' prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from heedful.cli.options import Flag, controls_of, load_project, optional, say


@dataclass(frozen=True, kw_only=True)
class EvaluatePeople:
    """Let labelers compare models on prompts of owners that no model was trained on.

    - Every model answers the project's prompts of the split test.
    - Training and held-out labelers rate and rank the answers. The report shows
      the two groups apart: win rates, means, the paper's Table 3, and intervals
      over prompts and labelers.
    - It stops when labelers have to work, and says how far they are. Run it
      again with the same models: it continues, and asks nothing twice.
    - For example: heedful evaluate people mine sft=models/sft ppo=models/ppo
    """

    project: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PROJECT")]
    """The project's folder."""
    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME=]MODEL ...")]
    """At least two folders of causal language models in Hugging Face format."""
    baseline: Annotated[str | None, optional("NAME")] = None
    """The model that all others are compared with (else the first)."""
    prompts: Annotated[int | None, optional("N")] = None
    """At most N prompts (else as in [evaluate] of heedful.toml)."""
    labelers_per_prompt: Annotated[int | None, optional("N")] = None
    """How many labelers of each group judge each prompt (else as in [evaluate] of heedful.toml)."""
    group: Annotated[Literal["held_out", "training"] | None, optional("{held_out,training}")] = None
    """Ask only this group of labelers (else both)."""
    with_what_is_there: Flag = False
    """Report the labelers' answers so far, even if some tasks are still open."""
    length_control: Flag = False
    """Also report Bradley-Terry scores at equal length of the responses."""
    style_control: Flag = False
    """Also report Bradley-Terry scores at equal length, list items, headers, bold text and code blocks."""
    confidence: float = 0.95
    """Confidence level of all intervals."""

    def run(self, console: Console) -> None:
        """Sample, ask, report. Raises ConfigError, MissingError, ModelError, DataError, BusyError, StorageError."""
        from heedful.align.people_evaluation import Panels, evaluate_people
        from heedful.evaluate.benchmarks.benchmark_run import contestants
        from heedful.evaluate.people_page import people_in_words
        from heedful.presets import resolved_preset

        project, models = load_project(self.project), contestants(self.models)
        config = resolved_preset(project).evaluate
        panels = Panels(
            groups=("held_out", "training") if self.group is None else (self.group,),
            labelers_per_prompt=config.labelers_per_prompt if self.labelers_per_prompt is None else self.labelers_per_prompt,
            num_prompts=config.prompts if self.prompts is None else self.prompts,
        )
        found = evaluate_people(
            project,
            models,
            panels,
            console,
            baseline=self.baseline or (models[0].name if models else ""),
            confidence=self.confidence,
            controls=controls_of(length=self.length_control, style=self.style_control),
            partly=self.with_what_is_there,
        )
        if found.comparison is not None:
            say(Console(), people_in_words(found.comparison))
        if found.waiting is not None:
            say(console, found.waiting)
        if found.comparison is not None:
            say(console, f"report: {found.folder / 'report.html'}")
            say(console, f"numbers: {found.folder / 'results.json'}")
