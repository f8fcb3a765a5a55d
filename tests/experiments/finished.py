"""A miniature whose stages count as done without any training: every model is the small base model, on a few prompts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from heedful.miniature import preparation as miniature
from heedful.miniature.invented_world import World
from heedful.miniature.judging import judge
from heedful.miniature.labelers import rank
from heedful.miniature.panel import Panel
from heedful.miniature.tasks import demonstrate, prompts
from heedful.model.loading import load_causal_model, load_tokenizer
from heedful.model.saving import save_model
from heedful.model.scalar_models import scalar_model_from_causal
from heedful.project.data_folder import Records, record_to_json
from heedful.project.files import write_jsonl
from heedful.project.outputs import OUTPUTS, described_outputs
from heedful.project.project import Project
from heedful.records import Demonstration, Ranking, Response

SETTINGS = """
[sft]
epochs = 1
candidates = 1
max_response_tokens = 12

[initial_policy]
epochs = 2
candidates = 1
batch_size = 8
max_response_tokens = 12

[reward]
batch_size = 4
epochs = 1

[ppo]
episodes = 16
batch_size = 8
minibatches = 2
max_response_tokens = 12

[evaluate]
prompts = 4
labelers_per_prompt = 1
benchmark_items = 2
choice_prompts = 4
"""
WORLD = World(0)


def finished_miniature(folder: Path, *, num_labelers: int = 5) -> Project:
    """Its rankings are by ``num_labelers`` training labelers, each of whom ranks every prompt."""
    project = miniature.miniature_project(folder, seed=0)
    text = project.config_file.read_text().replace(
        str(miniature.base_model_folder("medium")), str(miniature.base_model_folder("small"))
    )
    project.config_file.write_text(text.replace("small_model", "# small_model") + SETTINGS)
    project = Project.load(folder)
    panel = Panel(WORLD, seed=0)
    everything = prompts(WORLD, seed=5, count=12, split="train") + prompts(WORLD, seed=6, count=6, split="valid")
    teacher = panel.labelers["training"][0]
    demonstrations = [
        Demonstration(
            id=f"demonstration-{prompt.id}",
            prompt_id=prompt.id,
            text=demonstrate(WORLD, prompt, labeler=teacher, seed=0),
            labeler=teacher.name,
        )
        for prompt in everything[:6] + everything[-2:]
    ]
    Records.of([*everything, *demonstrations]).save(project.data)
    write_jsonl(_made(project.data / "pretraining") / "train.jsonl", ({"text": "Mia had a lamp. " * 6} for _ in range(40)))
    write_jsonl(project.data / "pretraining" / "valid.jsonl", ({"text": "Tom had a red ball. " * 4} for _ in range(4)))
    _rankings(project, panel, num_labelers)
    base = miniature.base_model_folder("small")
    for name in ("sft", "initial_policy"):
        run = _made(project.runs / f"{name}-1")
        shutil.copytree(base, run / "model")
        (run / "candidates.json").write_text(
            json.dumps([{"folder": "model", "epoch": 1, "validation_loss": 1.0, "pretraining_loss": 1.0}])
        )
        (run / "chosen.json").write_text(json.dumps({"folder": "model", "epoch": 1}))
    torch.manual_seed(0)
    reward_model = scalar_model_from_causal(load_causal_model(base), pad_token_id=None, eos_token_id=0)
    save_model(reward_model, load_tokenizer(base), _made(project.runs / "reward-1") / "model")
    for name in ("data", "sft", "collect", "reward", "initial_policy"):
        finish(project, name)
    return project


def finish(project: Project, name: str) -> None:
    """Let a stage count as done."""
    run = _made(project.runs / f"{name}-1")
    state = {"stage": name, "fingerprint": f"of-{name}", "inputs": {}, "done": True, "seconds": 10.0}
    (run / "stage.json").write_text(json.dumps({**state, OUTPUTS: described_outputs(run)}))


def _rankings(project: Project, panel: Panel, num_labelers: int) -> None:
    """Four outputs for each prompt: a good answer, and answers to other prompts."""
    asked = list(Records.load(project.data).prompts.values())
    responses: list[Response] = []
    rankings: list[Ranking] = []
    for place, prompt in enumerate(asked):
        others = [asked[(place + step) % len(asked)] for step in (0, 1, 2, 5)]
        writer = panel.labelers["held_out"][0]
        texts = [demonstrate(WORLD, other, labeler=writer, seed=place) for other in others]
        shown = [
            Response(id=f"output-{prompt.id}-{i}", prompt_id=prompt.id, text=text, model="sft") for i, text in enumerate(texts)
        ]
        judgements = [judge(WORLD, prompt, one.text, one.finished) for one in shown]
        responses += shown
        for labeler in panel.labelers["training"][:num_labelers]:
            rankings.append(rank(labeler, prompt, shown, judgements, seed=0))
    run = _made(project.runs / "collect-1")
    write_jsonl(run / "responses.jsonl", map(record_to_json, responses))
    write_jsonl(run / "rankings.jsonl", map(record_to_json, rankings))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
