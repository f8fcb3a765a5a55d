"""``heedful align`` from the first import to the report, with people who fill in files; kills and changes on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from tests.align.small_project import (
    SMALL,
    copy_of,
    filled_in,
    heedful,
    read_rows,
    rows,
    run,
    send_itself,
    set_config,
    stages_copied_from_one,
    write_base_model,
    write_pretraining_text,
    write_rows,
)
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from heedful.align import running
from heedful.align.stages import STAGES as TABLE
from heedful.functional import chunked_token_logprobs
from heedful.model import load_causal_model, load_scalar_model, pack, packed_hidden
from heedful.model.loading import unembedding
from heedful.model.readout import score
from heedful.project.data_folder import Records
from heedful.project.lock import LOCK_FILE, alone_in
from heedful.training.alternatives_config import Alternative

STAGES = [stage.name for stage in TABLE if stage.name not in get_args(Alternative)]


@dataclass(frozen=True, kw_only=True)
class Journey:
    """A project from init to report, and what each command said."""

    folder: Path
    said: dict[str, tuple[int, str]]
    tasks: list[dict[str, object]]
    """tasks/ranking.jsonl as align wrote it."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def journey(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Journey:
    folder = tmp_path_factory.mktemp("projects") / "mine"
    prompts, demonstrations = rows()
    said: dict[str, tuple[int, str]] = {}

    def step(name: str, *arguments: object) -> None:
        said[name] = run(*arguments)

    step("init", "init", folder, "--base-model", base)
    with (folder / "heedful.toml").open("a") as file:
        file.write(SMALL)
    set_config(folder, 'labelers = "people"', 'labelers = "files"')
    write_pretraining_text(folder)
    run("import", "heedful", write_rows(folder / "prompts-in.jsonl", prompts), "--project", folder)
    step("align without demonstrations", "align", folder)
    run("import", "heedful", write_rows(folder / "answers-in.jsonl", demonstrations), "--project", folder)
    step("align without rankings", "align", folder)
    step("status without rankings", "status", folder)
    tasks = read_rows(folder / "tasks" / "ranking.jsonl")
    step("import of empty tasks", "import", "heedful", folder / "tasks" / "ranking.jsonl", "--project", folder)
    for labeler in ("bob", "cem"):
        file = write_rows(folder / f"{labeler}.jsonl", filled_in(folder / "tasks" / "ranking.jsonl", labeler))
        step(f"import of {labeler}'s", "import", "heedful", file, "--project", folder)
    step("align", "align", folder)
    return Journey(folder=folder, said=said, tasks=tasks)


@pytest.fixture
def project(journey: Journey, tmp_path: Path) -> Path:
    """A copy of the finished project, to be changed by a test."""
    shutil.copytree(journey.folder, tmp_path / "mine")
    return tmp_path / "mine"


def stage_times(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("runs/*/stage.json")}


def made_anew(folder: Path, before: dict[str, int]) -> set[str]:
    """Names of the stages that were run since."""
    after = stage_times(folder)
    assert all(after[name] == time for name, time in before.items()), "a finished run was overwritten"
    return {name.rpartition("-")[0] for name in after.keys() - before.keys()}


# ------------------------------------------------------------------------------------------- what people have to do first


def test_without_demonstrations_it_says_what_to_import(journey: Journey) -> None:
    code, said = journey.said["align without demonstrations"]
    assert code == 0
    assert "waiting for demonstrations: 30 prompts wait for labelers' answers" in said
    assert f"heedful import FORMAT FILE --project {journey.folder}" in said


def test_without_rankings_it_writes_tasks_and_says_where(journey: Journey) -> None:
    file = journey.folder / "tasks" / "ranking.jsonl"
    code, said = journey.said["align without rankings"]
    assert code == 0
    assert f"waiting for rankings: 13 ranking tasks wait in {file}: fill in ranks and labeler" in said
    assert len(journey.tasks) == 13
    assert {len(task["response_ids"]) for task in journey.tasks} <= {3, 4}  # type: ignore[arg-type]
    code, said = journey.said["status without rankings"]
    assert f"next: 13 ranking tasks wait in {file}" in said
    code, said = journey.said["import of empty tasks"]
    assert (code, "a ranking task that is not filled in" in said) == (2, True)


def test_filled_in_tasks_come_back_as_rankings_of_several_labelers(journey: Journey) -> None:
    for labeler in ("bob", "cem"):
        code, said = journey.said[f"import of {labeler}'s"]
        assert code == 0, said
        assert "13 rankings" in said
        assert "0\n" in said.partition("rejected")[2], said
    records = Records.load(journey.folder / "data")
    assert len(records.rankings) == 26
    assert {r.labeler for r in records.rankings.values()} == {"bob", "cem"}
    assert {tuple(t["response_ids"]) for t in journey.tasks} == {r.response_ids for r in records.rankings.values()}  # type: ignore[arg-type]


def test_labelers_cannot_tell_which_model_wrote_what(journey: Journey) -> None:
    tasks = read_rows(journey.folder / "tasks" / "evaluation.jsonl")
    assert len(tasks) == 6
    assert not [i for task in tasks for i in task["response_ids"] if any(name in i for name in ("sft", "ppo", "base"))]
    responses = Records.load(journey.folder / "data").responses
    orders = {tuple(str(responses[i].model) for i in task["response_ids"]) for task in tasks}
    assert all(sorted(order) == sorted(("base", "prompted_base", "sft", "ppo", "ppo_ptx")) for order in orders)
    assert len(orders) > 1


# ------------------------------------------------------------------------------------------- report, and again


def test_it_ends_in_a_report(journey: Journey) -> None:
    code, said = journey.said["align"]
    assert code == 0, said
    assert f"report: {journey.folder / 'report.html'}" in said
    results = json.loads((journey.folder / "results.json").read_text())
    assert [m["name"] for m in results["models"]] == ["base", "prompted_base", "sft", "ppo", "ppo_ptx"]
    assert results["labelers"] == "people"
    assert results["data"]["rankings"] == 20
    assert len(results["curves"]["ppo_ptx"]) == 4
    assert "ptx_loss" in results["curves"]["ppo_ptx"][0]
    assert "ptx_loss" not in results["curves"]["ppo"][0]
    assert "mine" in (journey.folder / "report.html").read_text()


def test_stages_that_status_lists_are_those_that_align_runs(journey: Journey) -> None:
    started = {name: (journey.folder / "runs" / f"{name}-1" / "stage.json") for name in STAGES}
    ran = [name for name in STAGES if started[name].is_file()]
    assert set(ran) == {path.name.rpartition("-")[0] for path in (journey.folder / "runs").iterdir() if path.is_dir()}
    switched_off = {"task_mixture", "choose_task_mixture", "reward_by_group", "refusal_comparisons", "refusal_check"}
    assert set(STAGES) - set(ran) == {"data", "initial_policy_small", "ppo_ptx_small", *switched_off}
    times = [started[name].stat().st_mtime_ns for name in ran]
    assert times == sorted(times)


def test_a_second_call_does_nothing_again(project: Path) -> None:
    before, results = stage_times(project), (project / "results.json").read_bytes()
    code, said = run("align", project)
    assert code == 0
    assert said.count("done before") == len(before) - 2  # neither demonstrate nor collect was needed again
    assert made_anew(project, before) == set()
    assert (project / "results.json").read_bytes() == results


def test_other_ppo_settings_run_ppo_and_what_follows_anew(project: Path) -> None:
    before = stage_times(project)
    set_config(project, "episodes = 32", "episodes = 16")
    assert run("align", project)[0] == 0
    assert made_anew(project, before) == {"ppo", "ppo_ptx", "evaluate"}
    assert len(read_rows(project / "runs" / "ppo-2" / "metrics.jsonl")) == 2
    assert len(read_rows(project / "runs" / "ppo-1" / "metrics.jsonl")) == 4
    # ... and back: what was done for the old settings is still there.
    set_config(project, "episodes = 16", "episodes = 32")
    before = stage_times(project)
    assert run("align", project)[0] == 0
    assert made_anew(project, before) == set()


def test_other_data_run_what_depends_on_them_anew(project: Path) -> None:
    before = stage_times(project)
    ranking = filled_in(project / "tasks" / "ranking.jsonl", "dan")[:1]
    run("import", "heedful", write_rows(project / "dan.jsonl", ranking), "--project", project)
    assert f"next: data changed since {project / 'report.html'} was written" in run("status", project)[1]
    assert run("align", project)[0] == 0
    later = {"reward", "choose_sft", "choose_prefix", "ppo", "ppo_ptx", "evaluate"}
    assert made_anew(project, before) == later  # and neither sft nor initial_policy

    before = stage_times(project)
    demonstration = {"kind": "demonstration", "prompt_id": "train0", "text": "w9 w7", "labeler": "ann"}
    run("import", "heedful", write_rows(project / "new.jsonl", [demonstration]), "--project", project)
    assert run("align", project)[0] == 0
    assert made_anew(project, before) == {"sft", "initial_policy", *later}


def test_peoples_judgements_of_the_evaluation_complete_the_report_and_train_nothing(project: Path) -> None:
    before = stage_times(project)
    assert "6 tasks wait" in run("status", project)[1]
    answers = filled_in(project / "tasks" / "evaluation.jsonl", "eva")
    # She also ranked a training prompt's outputs, in the phase evaluation: that makes her no training labeler.
    other = next(row for row in filled_in(project / "tasks" / "ranking.jsonl", "eva") if row["prompt_id"].startswith("train"))
    answers.append(other | {"phase": "evaluation"})
    code, said = run("import", "heedful", write_rows(project / "eva.jsonl", answers), "--project", project)
    assert code == 0, said
    code, said = run("align", project)
    assert code == 0, said
    assert made_anew(project, before) == set()
    results = json.loads((project / "results.json").read_text())
    rates = {row["model"]: row for row in results["preference"]["win_rates"]}
    assert {row["group"] for row in rates.values()} == {"held_out"}
    assert rates["base"]["num_comparisons"] == 6
    assert "done: the report is" in run("status", project)[1]
    code, said = run("align", project)  # the judgements beside the stage's outputs do not look like damage
    assert code == 0, said


# ------------------------------------------------------------------------------------------- kills


@pytest.fixture(scope="module")
def uninterrupted(journey: Journey, processes: Any, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """results.json of the project with all its rankings, aligned in one go."""
    folder = copy_of(journey.folder, tmp_path_factory.mktemp("whole") / "mine")
    done = heedful(processes, "align", folder)
    assert done.returncode == 0, done.stderr
    return (folder / "results.json").read_bytes()


@torch.no_grad()
def check_models(folder: Path) -> int:
    """Every model in the runs loads in plain transformers and gives there what it gives here; returns how many there are."""
    prompt, response = [8, 11, 30], [9, 7, 0]
    written = [*folder.glob("runs/*/model/"), *folder.glob("runs/*/candidates/*/")]
    models = [path for path in written if not path.name.startswith(".")]
    for model in models:
        tokens = torch.tensor([[*prompt, *response]])
        assert AutoTokenizer.from_pretrained(model)("w8 w11")["input_ids"] == [8, 11]
        if "reward-" in str(model):
            theirs = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32)(tokens).logits[0]
            ours = score(load_scalar_model(model), [prompt], [response])
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0, msg=str(model))
            continue
        logits = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)(tokens).logits[0, 2:-1]
        theirs = torch.log_softmax(logits, -1)[range(3), response]
        loaded, batch = load_causal_model(model), pack([prompt], [response])
        hidden = packed_hidden(loaded, batch).index_select(0, batch.predict_from)
        ours = chunked_token_logprobs(hidden, unembedding(loaded), batch.targets)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0, msg=str(model))
    return len(models)


def test_every_model_that_is_saved_loads_in_plain_transformers(journey: Journey) -> None:
    # sft: 2 candidates and the model; reward; initial policy: 2 and 1; ppo; ppo_ptx
    assert check_models(journey.folder) == 9


def test_killed_in_the_middle_of_any_stage_it_continues_to_the_same_results(
    journey: Journey, uninterrupted: bytes, processes: Any, tmp_path: Path
) -> None:
    folder = copy_of(journey.folder, tmp_path / "mine")
    for title, step, where in (("sft", 4, "log"), ("reward", 2, "log"), ("initial_policy", 0, "save"), ("ppo_ptx", 2, "log")):
        killed = heedful(processes, "align", folder, before=partial(send_itself, signal.SIGKILL, title, step, where))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        if where == "log":
            assert (folder / "runs" / f"{title}-1" / "checkpoints").is_dir()
        assert not (folder / "runs" / f"{title}-1" / "model").exists()
        check_models(folder)
        folder = folder.rename(tmp_path / f"moved after {title}")
    done = heedful(processes, "align", folder)
    assert done.returncode == 0, done.stderr
    assert "ppo_ptx: continuing at step 2" in done.stderr
    assert check_models(folder) == 9
    assert {path.name for path in (folder / "runs").iterdir() if path.name[-1] != "1"} == {LOCK_FILE, "round-1.json"}
    assert json.loads((folder / "results.json").read_text()) == json.loads(uninterrupted)
    assert (folder / "results.json").read_bytes() == uninterrupted


def killed_before_done(name: str) -> None:
    """Let this process be killed when a stage has done its work and is not marked as done yet."""
    end = running._Begun.end

    def killed(self: Any, seconds: float, processor_seconds: float) -> Any:
        if self.row["stage"] == name:
            os.kill(os.getpid(), signal.SIGKILL)
        return end(self, seconds, processor_seconds)

    running._Begun.end = killed


@pytest.mark.long
def test_killed_between_the_model_and_the_end_of_its_stage_it_is_not_trained_again(
    journey: Journey, uninterrupted: bytes, processes: Any, tmp_path: Path
) -> None:
    folder = copy_of(journey.folder, tmp_path / "mine")
    for name in ("sft", "reward", "initial_policy", "ppo_ptx"):
        killed = heedful(processes, "align", folder, before=partial(killed_before_done, name))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        logged = (folder / "runs" / f"{name}-1" / "metrics.jsonl").stat()
        (folder / "runs" / f"{name}-1" / "model" / ".trained-once").touch()
        assert logged.st_size > 0
    done = heedful(processes, "align", folder)
    assert done.returncode == 0, done.stderr
    assert "ppo_ptx: its model is already there" in done.stderr
    for name in ("sft", "reward", "initial_policy", "ppo_ptx"):
        assert (folder / "runs" / f"{name}-1" / "model" / ".trained-once").exists()
    assert (folder / "results.json").read_bytes() == uninterrupted


def test_side_by_side_it_comes_to_the_same_results(
    journey: Journey, uninterrupted: bytes, processes: Any, tmp_path: Path
) -> None:
    folder = copy_of(journey.folder, tmp_path / "mine")
    set_config(folder, "[project]", "[project]\nprocesses = 2")
    done = heedful(processes, "align", folder, before=stages_copied_from_one)
    assert done.returncode == 0, done.stderr
    assert (folder / "results.json").read_bytes() == uninterrupted
    assert "ppo, ppo_ptx" in done.stderr
    assert "ppo_ptx:" in done.stderr  # what the other processes say is heard


def test_interrupted_by_hand_it_says_how_to_go_on(journey: Journey, processes: Any, tmp_path: Path) -> None:
    folder = copy_of(journey.folder, tmp_path / "mine")
    stopped = heedful(processes, "align", folder, before=partial(send_itself, signal.SIGINT, "sft", 3, "log"))
    assert stopped.returncode == 130
    assert "Traceback" not in stopped.stderr
    assert stopped.stderr.rstrip().endswith(
        "interrupted: run the same command again, and it continues from the last checkpoint"
    )
    code, shown = run("status", folder)
    assert code == 0
    assert "not finished at step 3" in shown
    assert f"next: sft is not finished: run `heedful align {folder}`, it continues" in shown
    state = json.loads((folder / "runs" / "sft-1" / "stage.json").read_text())
    assert (state["done"], state["seconds"] > 0) == (False, True)


def test_a_second_process_in_the_same_project_is_refused(project: Path) -> None:
    with alone_in(project / "runs"):
        for command in (["align", project], ["sweep", "sft", "learning_rate", "--values", "1e-3", "--project", project]):
            code, said = run(*command)
            assert (code, f"process {os.getpid()} on " in said) == (2, True), said


def test_without_held_out_prompts_it_says_so(project: Path) -> None:
    file = project / "data" / "prompts.jsonl"
    write_rows(file, [{**row, "split": "train"} for row in read_rows(file)])
    code, said = run("align", project)
    assert code == 2
    assert "there is no held-out prompt to evaluate on" in said
    assert str(file) in said
