"""``heedful pretrain`` makes a base model to start from; ``heedful doctor`` checks that a model computes correctly here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from heedful.cli.options import Flag, optional, say

if TYPE_CHECKING:
    from heedful.model.doctor_template import TemplateCheck


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Train a base language model from scratch on plain text.

    - For trying things out when you have no model to start from.
    - It trains a byte-level BPE tokenizer and a GPT-2 model on the text.
    - If interrupted, run the same command again: it continues.
    """

    text: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")]
    """A .txt or .jsonl file, or a folder of them."""
    output: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Run folder to write; the model will be in FOLDER/model."""
    encoding: str = "utf-8"
    """The text's encoding, such as windows-1252."""
    layers: int = 4
    """Transformer layers."""
    width: int = 256
    """Hidden width."""
    heads: int = 4
    """Attention heads; the width must be a multiple of their number."""
    vocabulary: int = 4_096
    """Size of the tokenizer's vocabulary."""
    context_length: int = 256
    """Context window in tokens."""
    num_tokens: int = 5_000_000
    """Tokens to train on; a shorter text is repeated."""
    batch_tokens: int = 8_192
    """Tokens in each optimiser step."""
    learning_rate: float = 2e-3
    """Peak learning rate."""
    seed: int = 0
    """Seed of the initial weights and of the order of the text."""
    tensorboard: Flag = False
    """Also write TensorBoard events."""

    def run(self, console: Console) -> None:
        """Train, and print the model's folder. Raises MissingError, DataError, ConfigError."""
        from heedful.align.pretraining import Shape, pretrain_from_text
        from heedful.training.config import PretrainConfig

        config = PretrainConfig(
            num_tokens=self.num_tokens,
            batch_tokens=self.batch_tokens,
            context_length=self.context_length,
            learning_rate=self.learning_rate,
            seed=self.seed,
            tensorboard=self.tensorboard,
        )
        shape = Shape(layers=self.layers, width=self.width, heads=self.heads, vocabulary=self.vocabulary)
        folder = pretrain_from_text(self.text, self.output, config, shape, encoding=self.encoding, console=console)
        say(console, f"model: {folder}")


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Check that a model computes the same here as in plain transformers.

    - Log-probs, scores and values must not depend on the batch, its order,
      padding or layout; cached decoding must equal the full forward pass; a
      saved model must load unchanged.
    - If the model has a chat template: a prompt must be the start of its
      conversation and hold begin-of-text once, and answers must end with an
      end token.
    - It prints the largest differences beside their limits. The exit code is 1
      if a check fails.
    - Training runs the quick checks first, and does not start if one fails.
    """

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A causal language model or reward model in Hugging Face format."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """The type to compute in; float32 is always checked too."""
    template: Annotated[Path | None, optional("FILE")] = None
    """A chat template in Jinja to check instead of the tokenizer's own."""

    def run(self, console: Console) -> None:
        """Print a row for each check. Raises CheckError if one fails."""
        from heedful.model.doctor import examine, refuse_failed
        from heedful.model.doctor_template import examine_template, refuse_failed_template
        from heedful.project.project import template_text

        of_template = examine_template(self.model, template_text(str(self.template)) if self.template else "chat")
        _print_template_checks(of_template)
        checks = examine(self.model, self.precision, console)
        table = Table(box=None, pad_edge=False)
        for heading in ("type", "check", "of", "difference", "limit", ""):
            table.add_column(heading, justify="right" if heading in ("difference", "limit") else "left", no_wrap=True)
        for check in checks:
            numbers = (f"{check.difference:.1e}", f"{check.limit:.1e}")
            table.add_row(check.precision, check.name, check.quantity, *numbers, "ok" if check.passed else "FAILED")
        Console().print(table, highlight=False)
        refuse_failed_template(of_template, self.template or self.model)
        refuse_failed(checks, self.model)
        say(console, f"{self.model}: all {len(checks) + len(of_template)} checks passed")


def _print_template_checks(checks: list[TemplateCheck]) -> None:
    output = Console()
    if not checks:
        say(output, "chat template: none")
    for check in checks:
        mark = "FAILED" if check.failed else "note" if check.found else "ok"
        say(output, f"chat template: {check.name:<35} {mark}" + (f": {check.found}" if check.found else ""))
