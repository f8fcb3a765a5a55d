"""The model card: valid for the hub, filled from the lineage, and honest about what is not known."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from tests.align.small_project import run
from tests.evaluate.invented import invented_results
from tests.tiny import plain, tiny_gpt2, tiny_tokenizer

from heedful.conversation import turns_of
from heedful.evaluate.card_facts import card_facts
from heedful.evaluate.model_card import cell, model_card
from heedful.evaluate.results_file import save_results
from heedful.lineage.use_record import UseRecord, write_use
from heedful.project.data_folder import Records
from heedful.project.fingerprints import digest_of_files
from heedful.project.project import Project, init_project
from heedful.records import Demonstration, Prompt, Ranking, Response


def finished(runs: Path, name: str, *, parents: dict[str, str], model: bool = True, **use: object) -> None:
    folder = runs / name
    folder.mkdir(parents=True)
    state = {
        "stage": name.rpartition("-")[0],
        "fingerprint": name,
        "inputs": {"config": {"learning_rate": 9.65e-6}},
        "done": True,
    }
    (folder / "stage.json").write_text(json.dumps(state))
    write_use(folder, UseRecord(heedful="0.1.0", sources="abc", parents=parents, **use))  # type: ignore[arg-type]
    if model:
        plain(tiny_gpt2()).save_pretrained(folder / "model")
        tiny_tokenizer().save_pretrained(folder / "model")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cards")
    base = folder / "base"
    plain(tiny_gpt2()).save_pretrained(base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "_name_or_path": "acme/tiny-2"}))
    (base / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: [en]\n---\n# Tiny\n")
    (base / "LICENSE").write_text("Apache")
    project = init_project(folder / "mine", base_model=str(base))
    given: dict[str, Any] = {"inputs": {"base_model": {"path": str(base), "digest": "0123456789abcdef"}}}
    finished(project.runs, "sft-1", parents={}, records={"prompts": ["p1"], "demonstrations": ["d1", "gone"]}, **given)
    finished(project.runs, "reward-1", parents={"sft": "sft-1"}, records={"prompts": ["p1", "p2"], "rankings": ["k1"]})
    finished(project.runs, "ppo_ptx-1", parents={"initial": "sft-1", "reward": "reward-1"}, makes="ppo_ptx")
    finished(project.runs, "evaluate-1", parents={"ppo_ptx": "ppo_ptx-1"}, model=False)
    Records.of(
        [
            Prompt(id="p1", turns=turns_of("Name a tree."), language="en", use_case="open_qa", user="u1"),
            Prompt(id="p2", turns=turns_of("Nenne einen Baum."), language="de", split="valid"),
            Demonstration(id="d1", prompt_id="p1", text="Oak.", labeler="kim|<b>", metadata={"instruction_version": 3}),
            Response(id="r1", prompt_id="p2", text="Eiche."),
            Response(id="r2", prompt_id="p2", text="Haus."),
            Ranking(
                id="k1", prompt_id="p2", response_ids=("r1", "r2"), ranks=(1, 2), labeler="lou", metadata={"group": "training"}
            ),
        ]
    ).save(project.data)
    return project.folder


@pytest.fixture
def project(original: Path, tmp_path: Path) -> Project:
    return Project.load(shutil.copytree(original, tmp_path / "mine"))


def written(project: Project, *more: object) -> str:
    code, said = run("card", project.folder, *more)
    assert code == 0, said
    return (project.runs / "ppo_ptx-1" / "README.md").read_text()


def test_the_header_is_valid_and_tells_base_license_languages(project: Project) -> None:
    header: Any = ModelCard(written(project)).data
    data = header.to_dict()
    assert (data["license"], data["base_model"], data["library_name"]) == ("apache-2.0", "acme/tiny-2", "transformers")
    assert (data["pipeline_tag"], data["language"], data["tags"]) == ("text-generation", ["de", "en"], ["heedful", "rlhf"])
    assert header.eval_results is None


def test_counts_labelers_versions_and_settings_are_those_of_the_lineage(project: Project) -> None:
    text = written(project)
    assert "| demonstrations | 2, 1 no longer there | train 1 | a file 1 |" in text
    assert "| rankings | 1 | valid 1 | a file 1 |" in text
    assert "Use cases of the prompts: open\\_qa 1, unknown 1." in text
    assert "| lou | training | 0 | 1 |" in text
    assert "demonstrate: version 3 (1 labels); rank: no version recorded (1 labels)." in text
    assert "| learning\\_rate | 9.65e-06 |" in text or "| learning_rate | 9.65e-06 |" in text
    assert "apache-2.0, as its model card says; LICENSE in its folder" in text
    # What people are called cannot become markup.
    assert "kim\\|&lt;b&gt;" in text
    assert "<b>" not in text
    assert cell("a\n| b") == "a \\| b"


def test_a_card_leaves_the_models_digest_as_it_was(project: Project) -> None:
    """`heedful evaluate people` knows models by it: with another digest labelers would be asked again."""
    before = digest_of_files(project.runs / "ppo_ptx-1" / "model")
    written(project)
    assert digest_of_files(project.runs / "ppo_ptx-1" / "model") == before


def test_what_is_not_known_is_said(project: Project) -> None:
    shutil.rmtree(project.runs / "evaluate-1")
    (Path(project.base_model) / "README.md").rename(project.folder / "aside")
    try:
        text = written(project)
    finally:
        (project.folder / "aside").rename(Path(project.base_model) / "README.md")
    for words in (
        'license: "unknown"',
        "unknown: its folder has no model card that names one",
        "The purpose of this model is not recorded.",
        "Its toxicity was not measured on a public benchmark.",
        "Its answers have not been compared",
        "How often labelers agree is not measured",
        "The model was not evaluated",
    ):
        assert words in text
    (project.runs / "ppo_ptx-1" / "used.json").unlink()
    assert "ppo\\_ptx-1: which records it was given" in written(project, "--model", "ppo_ptx-1")


def test_results_of_its_own_evaluation_with_intervals(project: Project) -> None:
    results = invented_results()
    save_results(project.folder / "results.json", results)
    card = ModelCard(written(project))
    header: Any = card.data
    for row in results["preference"]["win_rates"]:  # type: ignore[reportTypedDictNotRequiredAccess]
        shown = f"| {100 * row['win_rate']:.1f} % | {100 * row['low']:.1f} to {100 * row['high']:.1f} |"
        assert (shown in card.content) or row["model"] != "ppo_ptx"
    assert header.eval_results
    ours = [row["win_rate"] for row in results["preference"]["win_rates"] if row["model"] == "ppo_ptx"]  # type: ignore[reportTypedDictNotRequiredAccess]
    assert [one.metric_value for one in header.eval_results if one.metric_type == "win_rate"] == pytest.approx(ours, rel=1e-5)
    # An evaluation of another run's model says nothing of this one.
    (project.runs / "evaluate-1" / "used.json").unlink()
    assert "The model was not evaluated" in written(project)


def test_benchmarks_and_notes(project: Project, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    estimate = {"value": 0.25, "low": 0.125, "high": 0.5, "count": 8}
    score = {"model": "ppo_ptx", "series": "rte.zero-shot", "metric": "accuracy", "estimate": estimate, "num_items": 9}
    series = {"name": "rte.zero-shot", "task": "rte", "setting": "zero-shot", "notes": ["RTE: 9 items; the paper had 277"]}
    unscored = {**score, "metric": "F1", "num_unscored": 9, "estimate": {**estimate, "value": None}}
    value = {"models": ["base", "ppo_ptx"], "series": [series], "scores": [{**score, "num_unscored": 1}, unscored], "notes": []}
    (out / "results.json").write_text(json.dumps(value))
    (tmp_path / "notes.md").write_text("For *tests* only.\n")
    text = written(project, "--benchmarks", out, "--notes", tmp_path / "notes.md")
    assert "| rte, zero-shot, accuracy | 0.25 | 0.125 to 0.5 | 8 items |" in text
    assert "| rte, zero-shot, F1 | not scored | - | 9 items |" in text
    assert "RTE: 9 items; the paper had 277." in text
    assert "For *tests* only." in text
    assert "The purpose of this model is not recorded." not in text
    (out / "results.json").write_text(json.dumps({**value, "models": ["base"]}))
    code, said = run("card", project.folder, "--benchmarks", out)
    assert (code, "is not among the benchmark results" in said) == (2, True)


def test_the_code_in_the_card_loads_the_model(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    code = re.search(r"```python\n(.*?)```", written(project), re.DOTALL)
    assert code is not None
    monkeypatch.chdir(project.runs / "ppo_ptx-1" / "model")
    exec(compile(code[1], "card", "exec"), {})


def test_the_same_facts_give_the_same_card(project: Project) -> None:
    facts = card_facts(project, "ppo_ptx-1")
    assert model_card(facts) == model_card(card_facts(project, "ppo_ptx-1"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "pp_ptx"), "did you mean 'ppo_ptx"),
        (("--model", "evaluate"), "there is no model of the run 'evaluate-1'"),
        (("--benchmarks", "/nowhere"), "there are no benchmark results"),
        (("--notes", "/nowhere"), "there is no such file of notes"),
    ],
)
def test_mistakes(project: Project, arguments: tuple[str, ...], message: str) -> None:
    code, said = run("card", project.folder, *arguments)
    assert (code, "Traceback" in said) == (2, False)
    assert message in said
