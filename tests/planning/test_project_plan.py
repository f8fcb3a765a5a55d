"""``heedful plan PROJECT``: settings, model, texts and limits of a project; the time on a CPU beside a measured run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.align.small_project import SMALL, rows, run, set_config, write_base_model, write_pretraining_text, write_rows
from tests.planning import measured

from heedful.planning.compute import Lengths
from heedful.planning.cpu_speed import CpuSpeed, measured_speed
from heedful.planning.plan import UTILIZATION, Assumptions, make_plan
from heedful.planning.shapes import shape_of, shape_of_config
from heedful.presets import paper, sized

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def project(base: Path, tmp_path: Path) -> Path:
    """24 training prompts and 12 demonstrations; limits of 12 and 8 tokens in a window of 96."""
    folder = tmp_path / "mine"
    run("init", folder, "--base-model", base)
    with (folder / "heedful.toml").open("a") as file:
        file.write(SMALL)
    prompts, demonstrations = rows()
    code, said = run("import", "heedful", write_rows(folder / "in.jsonl", [*prompts, *demonstrations]), "--project", folder)
    assert code == 0, said
    return folder


def planned(project: Path, *flags: str) -> dict:
    code, said = run("plan", project, "--json", *flags)
    assert code == 0, said
    return json.loads(said)


def test_it_reads_the_projects_settings_model_and_data(project: Path) -> None:
    plan = planned(project, "--gpus", "0")
    a = plan["assumptions"]
    assert (a["gpus"], a["demonstrations"], a["rankings"], a["responses"]) == (0, 12, 10, 3.5)
    # A demonstration's answer has two words and its end; prompts have two to six.
    assert a["lengths"]["response"] == 3
    assert 2 < a["lengths"]["prompt"] < 6
    assert plan["model"]["parameters"] == shape_of(_base_of(project)).parameters
    # Two epochs, as heedful.toml says: 12 demonstrations of prompt and response.
    sft = plan["steps"][0]
    assert sft["true"]["tokens"] == pytest.approx(2 * 12 * (a["lengths"]["prompt"] + 3))
    assert all(step["seconds"] > 0 for step in plan["steps"])
    settings = {row["name"]: row for row in plan["settings"]}
    assert settings["[sft] learning_rate"] == {"name": "[sft] learning_rate", "value": 0.01, "source": "heedful.toml"}
    assert settings["[initial_policy] learning_rate"]["source"] == "heedful.toml"


def _base_of(project: Path) -> str:
    return next(
        line.split('"')[1] for line in (project / "heedful.toml").read_text().splitlines() if line.startswith("base_model")
    )


def test_rankings_of_the_project_count(project: Path) -> None:
    more = [{"kind": "response", "id": f"r{i}", "prompt_id": "train0", "text": "w9 " * (i + 1)} for i in range(3)]
    more += [
        {"kind": "ranking", "prompt_id": "train0", "response_ids": ["r0", "r1"], "ranks": [1, 2], "labeler": "bob"},
        {"kind": "ranking", "prompt_id": "train0", "response_ids": ["r0", "r1", "r2"], "ranks": [1, 2, 3], "labeler": "cem"},
    ]
    assert run("import", "heedful", write_rows(project / "more.jsonl", more), "--project", project)[0] == 0
    a = planned(project)["assumptions"]
    assert (a["rankings"], a["responses"]) == (1, 2.5)


def test_limits_are_shown_with_what_they_leave_out_and_a_proposal(project: Path) -> None:
    file = project / "heedful.toml"
    file.write_text(file.read_text().replace("max_prompt_tokens = 12", "max_prompt_tokens = 4"))
    plan = planned(project)
    assert plan["lengths"]["prompts"]["measured"] == 24
    assert plan["limits"]["effects"][0].startswith("max_prompt_tokens = 4 leaves out ")
    assert plan["limits"]["proposal"].startswith("set max_prompt_tokens = 32 and max_response_tokens = 32 under [limits]: that")
    code, said = run("plan", project)
    assert code == 0
    for words in (
        "lengths of the texts in tokens",
        "max_prompt_tokens = 4 leaves out",
        "under [limits]",
        "[sft] learning_rate",
    ):
        assert words in said


def test_limits_past_the_window_are_advice_not_an_error(project: Path) -> None:
    file = project / "heedful.toml"
    file.write_text(file.read_text().replace("max_response_tokens = 8", "max_response_tokens = 500"))
    plan = planned(project)
    assert "together they allow 512 tokens; the model's context window has 96" in plan["limits"]["effects"]


def test_one_table_holds_the_limits_of_all_stages(base: Path, tmp_path: Path) -> None:
    from heedful.presets import resolved_preset
    from heedful.project.project import Project

    folder = tmp_path / "mine"
    run("init", folder, "--base-model", base)
    with (folder / "heedful.toml").open("a") as file:
        file.write("\n[limits]\nmax_prompt_tokens = 300\nmax_response_tokens = 200\n[ppo]\nmax_response_tokens = 50\n")
    preset = resolved_preset(Project.load(folder))
    for table in ("sft", "initial_policy", "reward"):
        config = getattr(preset, table)
        assert (config.max_prompt_tokens, config.max_response_tokens) == (300, 200)
    assert (preset.ppo.max_prompt_tokens, preset.ppo.max_response_tokens) == (300, 50)  # its own table goes first
    assert preset.answering("collect").max_response_tokens == 200
    for wrong, said in (
        ("max_prompt_tokens = 0", "max_prompt_tokens is out of range"),
        ("max_tokens = 5", "did you mean 'max_prompt_tokens'?"),
        ('max_prompt_tokens = "5"', "wrong type"),
    ):
        (folder / "heedful.toml").write_text(
            f'[project]\nname = "x"\nbase_model = "{base}"\n[limits]\n{wrong}\n', encoding="utf-8"
        )
        code, output = run("align", folder)
        assert (code, said in output) == (2, True), output
        assert "[limits]" in output


def test_without_sft_there_is_no_step_for_it(project: Path) -> None:
    set_config(project, "# skip_sft = false", "skip_sft = true")
    assert [step["step"] for step in planned(project)["steps"]] == ["reward model", "PPO"]
    write_pretraining_text(project)
    assert [step["step"] for step in planned(project)["steps"]] == ["reward model", "PPO-ptx"]


def test_a_plan_with_another_preset(project: Path) -> None:
    row = {row["name"]: row for row in planned(project, "--preset", "7B-lora")["settings"]}
    assert row["[ppo] lora_rank"]["value"] == 16
    assert row["[reward] lora_rank"]["source"] == "ours"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "it is not clear what to plan for"),
        (["PROJECT", "--model", "gpt3-6b"], "it is not clear what to plan for"),
        (["nowhere"], "no heedful.toml here"),
    ],
)
def test_mistakes(project: Path, arguments: list[str], complaint: str) -> None:
    code, said = run("plan", *[str(project) if a == "PROJECT" else a for a in arguments])
    assert (code, complaint in said, "Traceback" in said) == (2, True, False), said


def test_a_project_whose_model_is_not_there(project: Path, base: Path) -> None:
    set_config(project, str(base), str(base.parent / "gone"))
    code, said = run("plan", project)
    assert (code, "the base model is not there" in said) == (2, True)


def test_a_size_as_preset_says_where_its_values_come_from() -> None:
    code, said = run("plan", "--model", "gpt3-6b", "--preset", "13B", "--json")
    assert code == 0
    row = {row["name"]: row for row in json.loads(said)["settings"]}
    assert row["[sft] learning_rate"]["value"] == sized(13e9).sft.learning_rate
    assert row["[sft] learning_rate"]["source"] == "between the paper's at 6B and 175B (SPEC 3.2)"


# ------------------------------------------------------------------------------------------- time on a CPU


def test_time_on_a_cpu_follows_from_its_speed() -> None:
    shape = shape_of("gpt3-1.3b")
    a = Assumptions(
        gpus=0,
        gpu="h100",
        utilization=0.5,
        cpu=CpuSpeed(flops=1e11, bandwidth=2e10),
        lengths=Lengths(prompt=100, response=100),
        demonstrations=100,
        rankings=100,
        responses=4,
    )
    plan = make_plan(shape, shape, paper("1.3B"), a)
    for step in plan.steps[:2]:
        assert step.seconds == pytest.approx(step.true.flops / (1e11 * 0.5))
    assert plan.steps[2].seconds is not None
    assert plan.steps[2].seconds > plan.steps[2].true.flops / (1e11 * 0.5) * 0.999
    twice = make_plan(shape, shape, paper("1.3B"), replace(a, cpu=CpuSpeed(flops=2e11, bandwidth=4e10)))
    assert [s.seconds for s in twice.steps] == pytest.approx([(s.seconds or 0) / 2 for s in plan.steps])
    assert [s.seconds for s in make_plan(shape, shape, paper("1.3B"), replace(a, cpu=None)).steps] == [None] * 3


def test_speed_is_operations_by_the_clock() -> None:
    """A clock that ticks one second at each look: each product, of 2 * tokens * width * width operations, takes some."""
    ticks = iter(range(1_000))
    shape = replace(shape_of("miniature-small"), width=8, feed_forward_width=16)
    speed = measured_speed(shape, "float32", seconds=0.5, clock=lambda: float(next(ticks)))
    # Looks at the clock: start, after the first call (1 s: enough), at the end (2 s).
    assert speed.flops == pytest.approx(2 * 2_048 * 8 * 16 / 2)


@pytest.mark.long
def test_the_estimate_is_near_a_measured_run() -> None:
    """Processor time of both, in one process with one thread: what else the machine does counts little."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.planning.timed"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    took = json.loads(done.stdout)
    shape = shape_of_config("measured", measured.CONFIG)
    a = Assumptions(
        gpus=0,
        gpu="h100",
        utilization=UTILIZATION["cpu"],
        cpu=CpuSpeed(flops=took["flops"], bandwidth=took["bandwidth"]),
        lengths=Lengths(prompt=measured.LENGTH / 2, response=measured.LENGTH / 2),
        demonstrations=2 * measured.SFT.batch_size,
        rankings=1,
        responses=2,
    )
    preset = replace(paper("1.3B"), sft=measured.SFT, ppo=measured.PPO)
    sft, _, ppo = make_plan(shape, shape, preset, a).steps
    assert sft.seconds is not None
    assert ppo.seconds is not None
    assert 0.5 < sft.seconds / took["sft_seconds"] < 2, (sft.seconds, took)
    assert 0.5 < ppo.seconds / took["ppo_seconds"] < 2, (ppo.seconds, took)


def test_the_small_model_is_planned_with_its_own_episodes(project: Path, tmp_path: Path) -> None:
    """Its step is PPO-ptx with its own shape and `[small_model]`; without pretraining text there is none."""
    small = write_base_model(tmp_path / "small")
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps({**config, "n_layer": 1}))
    set_config(project, '# small_model = "models/smaller"', f'small_model = "{small}"')
    assert [step["step"] for step in planned(project)["steps"]] == ["SFT", "reward model", "PPO"]
    write_pretraining_text(project)
    *_, large, own = planned(project)["steps"]
    assert (large["step"], own["step"]) == ("PPO-ptx", "small PPO-ptx")
    assert own["true"]["tokens"] == large["true"]["tokens"]
    assert own["true"]["flops"] < large["true"]["flops"]
    with (project / "heedful.toml").open("a") as file:
        file.write("\n[small_model]\nepisodes = 8\n")
    assert planned(project)["steps"][-1]["true"]["tokens"] < own["true"]["tokens"]
