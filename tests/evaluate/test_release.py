"""``heedful release``: a folder that other tools load, whole or not at all, and only of what is finished and evaluated."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.align.small_project import run
from tests.evaluate.invented import invented_results
from tests.evaluate.test_model_card import finished
from tests.tiny import END, largest_difference, plain, snapshot, tiny_gpt2, tiny_tokenizer
from tests.training.interrupting import interrupted_at
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from heedful.errors import DataError, HeedfulError, MissingError
from heedful.evaluate import release as release_module
from heedful.evaluate.release import checksums, push, release
from heedful.evaluate.results_file import save_results
from heedful.model import scalar_model_from_causal
from heedful.model.saving import save_model
from heedful.project import ended_rounds
from heedful.project.project import Project, init_project
from heedful.serve.served_models import load, sources_of


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("releases")
    base = folder / "base"
    plain(tiny_gpt2()).save_pretrained(base)
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")
    (base / "LICENSE.txt").write_text("Apache License, Version 2.0\n")
    (base / "NOTICE").write_text("made by Acme\n")
    project = init_project(folder / "mine", base_model=str(base))
    given: dict[str, Any] = {"inputs": {"base_model": {"path": str(base), "digest": "0123456789abcdef"}}}
    finished(project.runs, "sft-1", parents={}, **given)
    finished(project.runs, "reward-1", parents={"sft": "sft-1"}, model=False)
    torch.manual_seed(0)
    scalar = scalar_model_from_causal(tiny_gpt2(), pad_token_id=None, eos_token_id=END)
    save_model(scalar, tiny_tokenizer(), project.runs / "reward-1" / "model")
    for name, seed in (("ppo", 1), ("ppo_ptx", 2), ("dpo", 3)):
        finished(project.runs, f"{name}-1", parents={"initial": "sft-1", "reward": "reward-1"}, makes=name)
        save_model(tiny_gpt2(seed), tiny_tokenizer(), project.runs / f"{name}-1" / "model")
        if name != "dpo":
            change(project.runs / f"{name}-1", inputs={"reward": "reward-1"})
    finished(project.runs, "evaluate-1", parents={"ppo_ptx": "ppo_ptx-1", "ppo": "ppo-1"}, model=False)
    change(project.runs / "evaluate-1", inputs={"models": ["sft-1", "ppo-1", "ppo_ptx-1"]})
    save_results(project.folder / "results.json", invented_results())
    return project.folder


def change(run: Path, **more: Any) -> None:
    state = json.loads((run / "stage.json").read_text())
    (run / "stage.json").write_text(json.dumps({**state, **more}))


@pytest.fixture
def project(original: Path, tmp_path: Path) -> Project:
    return Project.load(shutil.copytree(original, tmp_path / "mine"))


def test_plain_transformers_and_serve_load_policy_and_reward_model(project: Project, tmp_path: Path) -> None:
    code, said = run("release", project.folder, "--output", tmp_path / "out")
    assert code == 0, said
    assert "release of ppo_ptx-1" in said
    policy: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert largest_difference(snapshot(policy), snapshot(tiny_gpt2(2))) == 0.0
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("w7 w8").input_ids == [7, 8]
    reward: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / "reward_model")
    assert reward.config.num_labels == 1
    AutoTokenizer.from_pretrained(tmp_path / "out" / "reward_model")
    served = [
        load(source, "float32") for source in sources_of([f"p={tmp_path / 'out'}", f"r={tmp_path / 'out' / 'reward_model'}"])
    ]
    assert [one.scores for one in served] == [False, True]


def test_license_notice_card_and_checksums(project: Project, tmp_path: Path) -> None:
    (project.runs / "ppo_ptx-1" / "model" / "README.md").write_text("a card of another day")
    (tmp_path / "notes.md").write_text("For *tests* only.\n")
    code, said = run("release", project.folder, "--notes", tmp_path / "notes.md")
    assert code == 0, said
    out = project.folder / "release"
    assert (out / "LICENSE.txt").read_text() == "Apache License, Version 2.0\n"
    assert (out / "NOTICE").read_text() == "made by Acme\n"
    card = (out / "README.md").read_text()
    assert "license: apache-2.0" in card.replace('"', "")
    assert "For *tests* only." in card
    done = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=out, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    listed = {line.split("  ")[1] for line in (out / "SHA256SUMS").read_text().splitlines()}
    assert listed == {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} - {"SHA256SUMS"}
    described = json.loads((out / "release.json").read_text())
    assert (described["policy"]["run"], described["reward_model"]["run"]) == ("ppo_ptx-1", "reward-1")
    before = (out / "SHA256SUMS").read_text()
    assert run("release", project.folder, "--notes", tmp_path / "notes.md")[0] == 0  # replaces the earlier one
    assert (out / "SHA256SUMS").read_text() == before


def test_the_released_folder_tells_its_lineage(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("release", project.folder, "--output", tmp_path / "out")[0] == 0
    found = json.loads((tmp_path / "out" / "lineage.json").read_text())
    assert [row["run"] for row in found["runs"]][-1] == "ppo_ptx-1"
    assert str(tmp_path) not in json.dumps(found)
    assert all("/" not in given["path"] for row in found["runs"] for given in row.get("inputs", {}).values())
    monkeypatch.chdir(tmp_path)  # no project is here
    code, said = run("lineage", tmp_path / "out", "--json")
    assert (code, json.loads(said)) == (0, found)


def test_a_policy_by_name_and_what_its_base_lacks(project: Project, tmp_path: Path) -> None:
    made = release(project, tmp_path / "ppo", model="ppo")
    assert (made.policy.name, made.warnings) == ("ppo-1", ())
    base = Path(project.base_model)
    hidden = [path.rename(base.parent / path.name) for path in (base / "LICENSE.txt", base / "NOTICE")]
    try:
        made = release(project, tmp_path / "again")
    finally:
        for path in hidden:
            path.rename(base / path.name)
    (warning,) = made.warnings
    assert "holds no license file (its card says apache-2.0)" in warning
    shutil.rmtree(project.runs / "ppo_ptx-1")
    assert release(project, tmp_path / "without-text").policy.name == "ppo-1"


def test_the_policy_that_the_last_round_accepted(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(project.runs, "policy_2-1", parents={"initial": "sft-1", "reward": "reward-1"}, makes="policy_2")
    for module in (release_module, ended_rounds):
        monkeypatch.setattr(module, "current_policy", lambda runs: ("policy_2", project.runs / "policy_2-1" / "model"))
    assert release(project, tmp_path / "out").policy.name == "policy_2-1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dpo", "dpo-1 is not evaluated yet"),
        ("cloning", "there is no finished policy to release"),
        ("../mine/runs/ppo-1", "there is no finished policy to release"),
    ],
)
def test_what_is_not_finished_or_not_evaluated_is_refused(project: Project, tmp_path: Path, name: str, message: str) -> None:
    code, said = run("release", project.folder, "--model", name, "--output", tmp_path / "out")
    assert (code, message in said) == (2, True), said
    assert not (tmp_path / "out").exists()


def test_an_unfinished_run_a_changed_one_and_a_folder_with_something_else_are_refused(project: Project, tmp_path: Path) -> None:
    change(project.runs / "ppo_ptx-1", outputs={"model/config.json": [1, 0, "00"]})
    with pytest.raises(DataError, match="an output of the finished stage ppo_ptx is damaged"):
        release(project, tmp_path / "out")
    change(project.runs / "ppo_ptx-1", outputs={}, done=False)
    change(project.runs / "ppo-1", done=False)
    with pytest.raises(MissingError, match="a run that is not finished"):
        release(project, tmp_path / "out")
    change(project.runs / "ppo_ptx-1", done=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    code, said = run("release", project.folder, "--output", tmp_path / "out")
    assert (code, "the folder holds something else" in said) == (2, True)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "precious"
    (project.folder / "results.json").unlink()
    with pytest.raises(MissingError, match="not evaluated yet"):
        release(project, tmp_path / "new")


def test_a_kill_while_it_copies_leaves_the_old_release(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(project, tmp_path / "out", model="ppo")
    before = checksums(tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr(release_module, "checksums", interrupted_at(1, checksums))
        with pytest.raises(KeyboardInterrupt):
            release(project, tmp_path / "out")
    assert checksums(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".aside")] == []


class Hub:
    """Stands for the hub's client."""

    endpoint = "https://hub.example/"

    def __init__(self, token: str, *, refuses: bool = False) -> None:
        self.token, self.refuses = token, refuses
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def create_repo(self, repository: str, **more: Any) -> None:
        if self.refuses:
            raise OSError(f"403 for {self.token}")
        self.calls.append((repository, more))

    def upload_folder(self, **more: Any) -> None:
        self.calls.append((more.pop("repo_id"), more))


def test_push_makes_a_private_repository_and_uploads_the_folder(project: Project, tmp_path: Path) -> None:
    release(project, tmp_path / "out")
    hub = Hub("secret")
    address = push(tmp_path / "out", "acme/kind", "secret", hub=lambda token: hub)
    assert address == "https://hub.example/acme/kind"
    (made, uploaded) = hub.calls
    assert made == ("acme/kind", {"private": True, "exist_ok": True, "repo_type": "model"})
    assert (uploaded[0], uploaded[1]["folder_path"]) == ("acme/kind", str(tmp_path / "out"))


def test_push_refuses_without_token_what_was_changed_and_keeps_the_token_secret(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    code, said = run("release", project.folder, "--output", tmp_path / "out", "--push", "acme/kind")
    assert (code, "there is no token for the hub" in said) == (2, True)
    with pytest.raises(HeedfulError, match="could not be uploaded") as refused:
        push(tmp_path / "out", "acme/kind", "secret", hub=lambda token: Hub(token, refuses=True))
    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None
    (tmp_path / "out" / "config.json").write_text("{}")
    with pytest.raises(DataError, match="changed after it was made"):
        push(tmp_path / "out", "acme/kind", "secret", hub=Hub)
    with pytest.raises(MissingError, match="this is not a release"):
        push(tmp_path, "acme/kind", "secret", hub=Hub)
