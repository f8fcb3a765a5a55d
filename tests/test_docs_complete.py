"""The documentation names everything there is: each configuration field, each metric; and nothing that is not there."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from tests.tiny import END, tiny_gpt2, tiny_tokenizer

from heedful import presets
from heedful.model import scalar_model_from_causal
from heedful.model.encoding import Example, RankedPrompt
from heedful.model.saving import save_model
from heedful.project.exporting import EXPORTS
from heedful.project.formats import FORMATS
from heedful.project.project import ProjectSection
from heedful.training.alternatives_config import (
    AlternativesConfig,
    BestOfNConfig,
    DPOConfig,
    ExpertIterationConfig,
    GroupRewardConfig,
)
from heedful.training.config import PPOConfig, PretrainConfig, RewardConfig, SFTConfig, StepConfig
from heedful.training.dpo import train_dpo
from heedful.training.expert_iteration import train_expert_iteration
from heedful.training.ppo import PPOData, train_ppo
from heedful.training.pretrain import train_pretrain
from heedful.training.pretraining_text import PretrainingText
from heedful.training.reward import train_reward
from heedful.training.sft import SFTData, train_sft

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
CONFIGURATIONS = (
    ProjectSection,
    StepConfig,
    SFTConfig,
    RewardConfig,
    PPOConfig,
    PretrainConfig,
    presets.CollectConfig,
    presets.EvaluateConfig,
    presets.RoundsConfig,
    presets.RefusalsConfig,
    presets.SmallModelConfig,
    presets.Limits,
    AlternativesConfig,
    DPOConfig,
    ExpertIterationConfig,
    BestOfNConfig,
    GroupRewardConfig,
)


def _generator() -> Any:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "_generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = _generator()


def part(page: str, name: str) -> str:
    """What stands between the markers of a table."""
    found = re.search(rf"<!-- begin {name} -->\n(.*?)<!-- end {name} -->", page, re.DOTALL)
    assert found, f"no table {name}"
    return found[1]


def rows(table: str) -> set[str]:
    """The names in the first column, which stand in backticks."""
    return set(re.findall(r"^\| `([\w -]+)`", table, re.MULTILINE))


# ---------------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=lambda c: c.__name__)
def test_every_configuration_field_is_documented(configuration: type) -> None:
    table = part((DOCS / "configuration.md").read_text(encoding="utf-8"), configuration.__name__)
    own = {f.name for f in dataclasses.fields(configuration) if f.name in configuration.__annotations__}
    assert rows(table) == own, "run `python docs/_generate.py`"


def test_every_stage_of_a_preset_has_its_table() -> None:
    shown = {c.__name__ for c in CONFIGURATIONS}
    stages = dataclasses.asdict(presets.paper()).keys()
    assert {type(getattr(presets.paper(), stage)).__name__ for stage in stages} <= shown
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert all(f"`[{stage}]`" in page for stage in stages)


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_tables_are_as_the_code_is(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    assert page == GENERATOR.renewed(page), "the page is behind the code: run `python docs/_generate.py`"


def test_every_table_stands_on_a_page() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    assert set(re.findall(r"<!-- begin ([\w ]+) -->", pages)) == set(GENERATOR.TABLES)


def test_a_field_without_docstring_is_an_error() -> None:
    with pytest.raises(LookupError, match=r"Bare\.value has no docstring"):
        GENERATOR.table(Bare, {"default": [Bare()]})


@dataclasses.dataclass
class Bare:
    value: int = 1


def test_a_changed_default_and_a_missing_row_are_seen() -> None:
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    line = next(line for line in page.splitlines() if line.startswith("| `gae_lambda` |"))
    for wrong in (line.replace("0.95", "0.9"), ""):
        changed = page.replace(line + "\n", wrong and wrong + "\n")
        assert changed != page
        assert GENERATOR.renewed(changed) == page


def test_meaning_and_source() -> None:
    split: Callable[[str], tuple[str, str]] = GENERATOR._meaning_and_source
    assert split("Peak (SPEC 3.2, 1.3B and 6B).") == ("Peak (SPEC 3.2, 1.3B and 6B).", "3.2 (C.1)")
    assert split("Both (SPEC 3.2, 3.7).") == ("Both.", "3.2 (C.1); 3.7 (3.5)")
    assert split("Items.") == ("Items.", "ours")


# ---------------------------------------------------------------------------------------------------- formats


def test_every_import_format_has_an_example_that_can_be_read() -> None:
    page = (DOCS / "your-project.md").read_text(encoding="utf-8")
    examples = dict(re.findall(r"^\*\*`([\w-]+)`\*\*: .*?^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    assert examples.keys() == FORMATS.keys()
    for name, text in examples.items():
        place = 0
        while place < len(text.rstrip()):
            row, place = json.JSONDecoder().raw_decode(text, place)
            place += len(text[place:]) - len(text[place:].lstrip())
            assert FORMATS[name].read(row, None).records


def test_every_export_format_is_documented() -> None:
    page = (DOCS / "your-project.md").read_text(encoding="utf-8")
    assert rows(page[page.index("## Export") :]) == EXPORTS.keys()


# ---------------------------------------------------------------------------------------------------- names of code and tests


def exists(name: str) -> bool:
    """Whether ``name`` below heedful is a module, or something in one; ``module.begin*`` stands for all that begin so."""
    parts = ["heedful", *name.split(".")]
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if part.endswith("*"):
                return any(known.startswith(part[:-1]) for known in dir(found))
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def column(page: str, heading: str) -> set[str]:
    """Everything in backticks in the columns with this heading."""
    found: set[str] = set()
    place = None
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            place = None
        elif place is None:
            place = cells.index(heading) if heading in cells else len(cells)
        elif place < len(cells):
            found |= set(re.findall(r"`([^`]+)`", cells[place]))
    return found


@pytest.mark.parametrize(("page", "heading"), [("faithfulness.md", "code"), ("behaviour.md", "where")])
def test_the_code_that_is_named_exists(page: str, heading: str) -> None:
    named = column(page, heading)
    assert len(named) > 20
    assert {name for name in named if not exists(name)} == set()


def test_the_tests_that_are_named_exist() -> None:
    named = column("faithfulness.md", "test")
    assert len(named) > 20
    assert {name for name in named if not (DOCS.parent / "tests" / f"{name}.py").is_file()} == set()


def test_what_does_not_exist_is_seen() -> None:
    assert not exists("training.ppo.train_pppo")
    assert not exists("training.pppo")
    assert not exists("training.data.recode_*")


# ---------------------------------------------------------------------------------------------------- metrics

TOKENIZER = tiny_tokenizer()
EXAMPLES = [Example([40, i, 41], [i, i + 1, END]) for i in range(1, 9)]
RANKINGS = [
    RankedPrompt("p", ("x", "y", "z"), [3, i], [[7, END], [8, END], [9, END]], ("a",), ((1, 2, 2),)) for i in range(1, 5)
]
QUICK: dict[str, Any] = {"precision": "float32", "learning_rate": 1e-3, "validate_every": 1}


def _text() -> PretrainingText:
    lengths = [6] * 40
    return PretrainingText(np.full(240, 5, dtype=np.int32), np.concatenate([[0], np.cumsum(lengths)]))


def _pretrain(folder: Path, console: Console) -> None:
    config = PretrainConfig(**QUICK, num_tokens=40, batch_tokens=20, context_length=12)
    train_pretrain(tiny_gpt2(), TOKENIZER, _text(), config, folder, validation=_text(), console=console)


def _sft(folder: Path, console: Console) -> None:
    config = SFTConfig(**QUICK, epochs=1, batch_size=4, candidates=1, pretraining_share=0.5)
    more: dict[str, Any] = {"pretraining": _text(), "pretraining_validation": _text(), "context_length": 12}
    train_sft(tiny_gpt2(), TOKENIZER, SFTData(EXAMPLES, EXAMPLES, **more), config, folder, console=console)


def _reward(folder: Path, console: Console) -> None:
    torch.manual_seed(0)
    model = scalar_model_from_causal(tiny_gpt2(), pad_token_id=None, eos_token_id=END)
    config = RewardConfig(**QUICK, batch_size=4, fit_head=True)
    train_reward(model, TOKENIZER, RANKINGS, config, folder, validation=RANKINGS, demonstrations=EXAMPLES, console=console)


def _ppo(folder: Path, console: Console) -> None:
    torch.manual_seed(0)
    reward_model = scalar_model_from_causal(tiny_gpt2(1), pad_token_id=None, eos_token_id=END)
    config = PPOConfig(
        **QUICK,
        episodes=4,
        batch_size=4,
        minibatches=2,
        max_response_tokens=4,
        ptx_examples_per_episode=1,
        ptx_context_length=12,
    )
    prompts = [example.prompt for example in EXAMPLES]
    data = PPOData(prompts, _text(), validation=prompts)
    train_ppo(tiny_gpt2(), reward_model, TOKENIZER, data, config, folder, console=console)


def _dpo(folder: Path, console: Console) -> None:
    config = DPOConfig(**QUICK, batch_size=4)
    train_dpo(tiny_gpt2(), TOKENIZER, RANKINGS, config, folder, validation=RANKINGS, console=console)


def _expert_iteration(folder: Path, console: Console) -> None:
    save_model(tiny_gpt2(), TOKENIZER, folder / "start")
    reward_model = scalar_model_from_causal(tiny_gpt2(1), pad_token_id=None, eos_token_id=END)
    config = ExpertIterationConfig(**QUICK, rounds=1, samples=8, max_response_tokens=60)
    prompts = [example.prompt for example in EXAMPLES]
    train_expert_iteration(folder / "start", reward_model, TOKENIZER, prompts, config, folder, console=console)


LOOPS = {
    "pretrain": _pretrain,
    "sft": _sft,
    "reward": _reward,
    "ppo": _ppo,
    "dpo": _dpo,
    "expert_iteration": _expert_iteration,
}


def sections(page: str) -> Iterator[tuple[str, str]]:
    """(name, text) of each second-level heading that is a step's name."""
    yield from re.findall(r"^## `(\w+)`.*?\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("step", LOOPS)
def test_every_metric_is_documented_and_no_other(step: str, tmp_path: Path) -> None:
    with open(tmp_path / "console", "w", encoding="utf-8") as file:
        LOOPS[step](tmp_path, Console(file=file))
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    logged = {name for line in lines for name in json.loads(line)}
    documented = rows(dict(sections((DOCS / "metrics.md").read_text(encoding="utf-8")))[step])
    assert documented == logged


def test_every_metric_row_is_whole() -> None:
    """name, unit, meaning, healthy range, what to do: none is empty."""
    for step, text in sections((DOCS / "metrics.md").read_text(encoding="utf-8")):
        for line in re.findall(r"^\| `.*$", text, re.MULTILINE):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert len(cells) == 5, f"{step}: {line}"
            assert all(cells), f"{step}: {line}"


# ---------------------------------------------------------------------------------------------------- the experiment log


def test_each_entry_of_the_log_opens_with_its_conclusion() -> None:
    _, *entries = re.split(r"^## ", (DOCS / "log.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    dates = [entry[:10] for entry in entries]
    assert dates == sorted(dates, reverse=True)
    for entry in entries:
        heading, _, rest = entry.partition("\n\n")
        assert rest.startswith("**"), heading
        assert max(map(len, entry.splitlines())) <= 120, heading
