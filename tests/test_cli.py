"""The command line: help that teaches, exit codes, init and status without torch, one message where something is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.align.small_project import rows, run, set_config, write_rows
from tests.test_layers import HEAVY

from heedful import __version__, cli
from heedful.cli.entry import VERBS as VERB_CLASSES
from heedful.cli.options import subcommand
from heedful.cli.project_verbs import Status
from heedful.presets import paper, resolved_preset, with_alternatives
from heedful.project.project import TEMPLATE, Project, config_from_mapping, init_project

ROOT = Path(__file__).resolve().parents[1]
VERBS = (
    "align",
    "init",
    "status",
    "import",
    "prompts",
    "export",
    "web",
    "serve",
    "up",
    "store",
    "report",
    "evaluate",
    "pretrain",
    "plan",
    "sweep",
    "experiment",
    "reproduce",
    "doctor",
)

WITHOUT_EXTRAS = f"""
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NotInstalled())
from heedful.cli import main
main(sys.argv[1:])
"""


def light(*arguments: object, cwd: Path | None = None, **how: object) -> subprocess.CompletedProcess[str]:
    """``heedful`` where only the core dependencies are installed."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
        **how,  # type: ignore[call-overload]
    )


# ------------------------------------------------------------------------------------------- help and exit codes


def test_alone_it_prints_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, said = run()
    assert (code, said) == run("--help")
    assert code == 0
    for verb in VERBS:
        assert f"• {verb}" in said
    assert "heedful init mine --base-model FOLDER" in said
    _, _, rest = said.partition("\n\n")  # the first line names all verbs
    assert max(map(len, rest.splitlines())) <= 80


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_explains_every_option(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, said = run(verb, "--help")
    assert code == 0
    usage, _, rest = said.partition("\n\n")
    assert usage.startswith(f"usage: heedful {verb}")
    assert max(map(len, rest.splitlines())) <= 80
    assert "None" not in said
    described = subcommand(next(v for v in VERB_CLASSES if v.__name__.lower() == verb), verb).description
    assert described.count("\n") or verb == "status"
    assert described in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["algin"],
        ["init"],
        ["init", "x"],
        ["align", "--sed", "3"],
        ["import", "foo", "x"],
        ["pretrain", "t", "--output", "o", "--layers", "two"],
    ],
)
def test_a_mistake_on_the_command_line_exits_with_2(arguments: list[str]) -> None:
    code, said = run(*arguments)
    assert code == 2
    assert "Traceback" not in said
    assert "--help" in said


def test_version() -> None:
    assert run("--version") == (0, f"heedful {__version__}\n")


def test_a_project_has_its_own_seed(tmp_path: Path) -> None:
    init_project(tmp_path, base_model="x")
    code, said = run("align", tmp_path, "--seed", 3)
    assert (code, "set seed under [project]" in said) == (2, True)


def test_a_failure_that_nobody_foresaw_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("not a matter of disks")

    monkeypatch.setattr(Status, "run", broken)
    with pytest.raises(OSError, match="not a matter of disks"):
        cli.main(["status"])


def test_a_closed_pipe_is_one_message() -> None:
    """``heedful ... | head -1``: the reader ends first."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "heedful.cli", "status", "/nowhere"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 2  # nothing was printed to the pipe
    code = """
from heedful.cli import main
from heedful.cli.project_verbs import Status
Status.run = lambda *_: print('x' * 10)
main(['status'])
"""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr == "error: the program that reads the output has ended (broken pipe): the rest was not printed\n"


# ------------------------------------------------------------------------------------------- without the extras


def test_collecting_labels_needs_no_torch(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    prompts, demonstrations = rows()
    given = write_rows(tmp_path / "given.jsonl", prompts + demonstrations)
    for arguments in (
        ("init", folder, "--base-model", "models/base"),
        ("status", folder),
        ("import", "heedful", given, "--project", folder),
        ("export", "trl-sft", tmp_path / "out.jsonl", "--project", folder),
        ("status", folder),
        ("--help",),
    ):
        done = light(*arguments)
        assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == len(demonstrations)


def test_a_missing_extra_is_one_message(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    init_project(folder, base_model="x")
    (tmp_path / "t.txt").write_text("text")
    for arguments in (("align", folder), ("align",), ("pretrain", tmp_path / "t.txt", "--output", tmp_path / "o")):
        done = light(*arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert "no module torch" in done.stderr or "no module transformers" in done.stderr
        assert "pip install 'heedful[train,eval]'" in done.stderr
    assert not (tmp_path / "miniature").exists()


# ------------------------------------------------------------------------------------------- init


def test_a_relative_base_model_holds_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "base").mkdir(parents=True)
    (tmp_path / "models" / "base" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    code, said = run("init", "projects/mine", "--base-model", "models/base")
    assert code == 0
    assert "warning" not in said
    monkeypatch.chdir("/")
    project = Project.load(tmp_path / "projects" / "mine")
    assert project.model_folder(project.base_model) == tmp_path / "models" / "base"


def test_a_base_model_that_is_not_there_yet_is_a_warning(tmp_path: Path) -> None:
    code, said = run("init", tmp_path / "mine", "--base-model", tmp_path / "later")
    assert code == 0
    assert f"warning: there is no model in {tmp_path / 'later'} yet" in said
    assert (tmp_path / "mine" / "heedful.toml").is_file()


def test_init_twice_is_refused(tmp_path: Path) -> None:
    run("init", tmp_path / "mine", "--base-model", "x")
    code, said = run("init", tmp_path / "mine", "--base-model", "y")
    assert (code, "holds a project already" in said) == (2, True)


def test_what_the_template_shows_commented_out_is_true(tmp_path: Path) -> None:
    """With every comment sign before a table or a key taken away it is a valid configuration with the defaults' values."""
    init_project(tmp_path, base_model="x")
    plain = Project.load(tmp_path)
    assert resolved_preset(plain) == with_alternatives(paper("1.3B"))
    lines = (tmp_path / "heedful.toml").read_text().splitlines()
    shown = [line.removeprefix("# ") if line.startswith("# [") or " = " in line.split("#")[-1][:28] else line for line in lines]
    (tmp_path / "heedful.toml").write_text("\n".join(shown))
    project = Project.load(tmp_path)
    assert set(project.settings) == {"limits", "sft", "initial_policy", "reward", "ppo", "collect", "evaluate"}
    assert all(len(table) >= 2 for table in project.settings.values())
    assert project.small_model == "models/smaller"
    assert resolved_preset(project) == with_alternatives(paper("1.3B"))
    for key in ("base_model", "pretraining_text", "small_model", "labelers", "preset", "seed"):
        assert f"{key} = " in TEMPLATE
    assert config_from_mapping is not None


# ------------------------------------------------------------------------------------------- status


def test_status_of_an_empty_project(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    folder = tmp_path / "mine"
    run("init", folder, "--base-model", tmp_path)
    code, said = run("status", folder)
    assert code == 0
    assert f"next: no demonstrations: import some with `heedful import FORMAT FILE --project {folder}`" in said
    assert "not started" in said
    assert "ppo_ptx: left out, there is no pretraining text" in said
    (folder / "data" / "pretraining").mkdir()
    said = run("status", folder)[1]
    assert "ppo_ptx" in said
    assert "left out" not in said
    (folder / "data" / "pretraining").rmdir()
    (folder / "data").rmdir()
    assert run("status", folder)[0] == 0


def test_status_counts_records(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    folder = tmp_path / "mine"
    run("init", folder, "--base-model", tmp_path)
    prompts, demonstrations = rows()
    response = {"kind": "response", "prompt_id": "train0", "model": "x"}
    responses = [{**response, "id": name, "text": name} for name in "abc"]
    ranking = {"kind": "ranking", "prompt_id": "train0", "response_ids": ["a", "b", "c"], "ranks": [1, 2, 2], "labeler": "bob"}
    run(
        "import",
        "heedful",
        write_rows(tmp_path / "in.jsonl", [*prompts, *demonstrations, *responses, ranking]),
        "--project",
        folder,
    )
    code, said = run("status", folder)
    assert code == 0
    counts = {
        row[0].strip(): [cell.strip() for cell in row[1:]]
        for row in (line.strip("│ ").split("│") for line in said.splitlines())
    }
    assert counts["prompts"] == ["24", "6", "7", "37"]
    assert counts["demonstrations"] == ["12", "3", "0", "15"]
    assert counts["rankings"] == ["1", "0", "0", "1"]
    assert counts["comparisons"] == ["2", "0", "0", "2"]
    assert counts["labelers"][-1] == "2"
    assert "collect" not in counts  # there are rankings already
    assert f"next: run `heedful align {folder}`" in said


def test_status_tells_done_from_begun(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    folder = tmp_path / "mine"
    run("init", folder, "--base-model", tmp_path)
    set_config(folder, 'labelers = "people"', 'labelers = "simulated"')
    for name, state in (
        ("data-1", {"done": True, "seconds": 2.5}),
        ("sft-1", {"done": True, "seconds": 1}),
        ("sft-2", {"done": False, "seconds": 3}),
    ):
        (folder / "runs" / name).mkdir()
        (folder / "runs" / name / "stage.json").write_text(json.dumps({"fingerprint": "f", **state}))
    (folder / "runs" / "sft-2" / "metrics.jsonl").write_text('{"step": 0}\n{"step": 41}\n{"step": 4')
    code, said = run("status", folder)
    assert code == 0
    lines = {line.strip("│ ").split("│")[0].strip(): line for line in said.splitlines() if line.startswith("│")}
    assert "done" in lines["data"]
    assert "2.5" in lines["data"]
    assert "not finished at step 41" in lines["sft"]
    assert "runs/sft-2" in lines["sft"]
    assert "not started" in lines["collect"]
    assert "sft is not finished: run `heedful align" in said
