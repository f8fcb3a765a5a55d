"""Two ranks (gloo, CPU) train as one process does, go on from each other's checkpoints, and a lost rank is no loss of work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.ports import free_port
from tests.tiny import largest_difference, snapshot
from tests.training import ranks
from tests.training.killed import EXAMPLES
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from heedful.errors import ConfigError
from heedful.model import load_scalar_model
from heedful.model.readout import score
from heedful.ranks import batch_shares
from heedful.ranks.batch_shares import own_indices, own_microbatches
from heedful.ranks.collectives import gather_in_order, gather_rows_in_order, sum_over_ranks
from heedful.ranks.world import World, world


def launch(
    processes: Any, loop: str, folder: Path, size: int, *, stop_at: int | None = None, lose: bool = False, **changed: Any
) -> list[str]:
    """Train on ``size`` ranks; returns what each ended with ("done", "interrupted", an error, or "killed")."""
    port = free_port()
    arguments = [(loop, str(folder), rank, size, port, stop_at, lose, changed) for rank in range(size)]
    workers = [processes.Process(target=ranks.work, args=given) for given in arguments]
    for path in (Path(f"{folder}.rank-{rank}") for rank in range(size)):
        path.unlink(missing_ok=True)
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(180)
        if worker.exitcode is None:
            worker.kill()
    ends = [Path(f"{folder}.rank-{rank}") for rank in range(size)]
    return [end.read_text() if end.exists() else "killed" for end in ends]


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_metrics(folder: Path, expected: Path, *, within: float = 1e-5) -> None:
    """Losses and all else that is logged; of expert iteration, those of each round's training too.

    Explained variance is a mean over microbatches, and ranks have others. Rankings do not know the level of a reward model's
    scores: its gradient is zero but for rounding, of which Adam makes steps.
    """
    names = {path.relative_to(expected) for path in expected.rglob("metrics.jsonl")}
    assert {path.relative_to(folder) for path in folder.rglob("metrics.jsonl")} == names
    got, want = ([row for name in sorted(names) for row in metrics((run / name).parent)] for run in (folder, expected))
    assert [row["step"] for row in got] == [row["step"] for row in want]
    assert sum("gradient_norm" in row for row in got) >= ranks.STEPS - 1
    for ours, theirs in zip(got, want, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"explained_variance", "demonstration_reward_before_shift"}:
            scale = 10.0 if "gradient_norm" in name else 1.0
            assert ours[name] == pytest.approx(theirs[name], abs=scale * within), (ours["step"], name)


def newest_checkpoint(folder: Path) -> Path:
    """Of a run; of expert iteration, that of the round that is being trained."""
    rounds = sorted(path for path in folder.glob("round-*") if (path / "checkpoints").is_dir())
    return max(((rounds or [folder])[-1] / "checkpoints").iterdir(), key=lambda path: int(path.name[5:]))


def weights(folder: Path) -> Any:
    kind = AutoModelForSequenceClassification if "reward" in folder.name else AutoModelForCausalLM
    return snapshot(kind.from_pretrained(folder / "model"))


@pytest.fixture(scope="module")
def one_process(processes: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Each loop's run in one process, made once."""
    folder, made = tmp_path_factory.mktemp("one"), set[str]()

    def run(loop: str) -> Path:
        if loop not in made:
            assert launch(processes, loop, folder / loop, 1) == ["done"]
            made.add(loop)
        return folder / loop

    return run


@pytest.mark.parametrize("loop", ranks.LOOPS)
def test_two_ranks_give_the_losses_of_one(loop: str, processes: Any, one_process: Any, tmp_path: Path) -> None:
    """With activation checkpointing too, which one process goes without."""
    ends = launch(processes, loop, tmp_path / loop, 2, activation_checkpointing=True, checkpoint_seconds=1e9)
    assert ends == ["done", "done"], ends
    assert_same_metrics(tmp_path / loop, one_process(loop))
    # Adam makes a step of the rounding of gradients that are zero in exact arithmetic: weights agree less closely than losses.
    assert largest_difference(weights(tmp_path / loop), weights(one_process(loop))) < 0.03
    assert not (tmp_path / loop / "checkpoints").exists()
    if "reward" in loop:
        model = load_scalar_model(tmp_path / loop / "model")
        demonstrations = [d.prompt for d in EXAMPLES], [d.response for d in EXAMPLES]
        assert float(score(model, *demonstrations).mean()) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("loop", ranks.LOOPS)
def test_a_run_goes_on_with_another_number_of_ranks(loop: str, processes: Any, one_process: Any, tmp_path: Path) -> None:
    """2 -> 1 -> 2, and on the way the newest checkpoint of two ranks is damaged: the one before it is taken."""
    folder = tmp_path / loop
    assert launch(processes, loop, folder, 2, stop_at=5) == ["interrupted"] * 2
    newest = newest_checkpoint(folder)
    assert {path.name for path in newest.iterdir()} == {".metadata", "__0_0.distcp", "__1_0.distcp", "rest.pt", "SHA256SUMS"}
    # PPO has one checkpoint for the two optimiser steps of an iteration, and expert iteration's second round has one so far.
    if loop not in ("ppo", "expert_iteration"):
        damaged = newest / "__1_0.distcp"
        damaged.write_bytes(damaged.read_bytes()[:-1])
    assert launch(processes, loop, folder, 1, stop_at=4) == ["interrupted"]
    assert (newest_checkpoint(folder) / "state.pt").exists()
    assert launch(processes, loop, folder, 2) == ["done"] * 2
    assert_same_metrics(folder, one_process(loop))


def test_every_model_family_is_sharded(processes: Any, tmp_path: Path) -> None:
    assert launch(processes, "families", tmp_path / "families", 2) == ["done"] * 2


def test_two_ranks_with_dropout_go_on_with_the_same_bits(processes: Any, tmp_path: Path) -> None:
    """Each rank's own random numbers are in the checkpoint."""
    settings: dict[str, Any] = {"residual_dropout": 0.3}
    assert launch(processes, "sft", tmp_path / "whole", 2, **settings) == ["done"] * 2
    assert launch(processes, "sft", tmp_path / "run", 2, stop_at=5, **settings) == ["interrupted"] * 2
    assert launch(processes, "sft", tmp_path / "run", 2, **settings) == ["done"] * 2
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    assert largest_difference(weights(tmp_path / "run"), weights(tmp_path / "whole")) == 0.0


def test_bfloat16_is_computed_with_and_float32_is_kept(processes: Any, one_process: Any, tmp_path: Path) -> None:
    """Two ranks' losses are near one's, but not those of float32; and the saved weights are float32."""
    for size in (1, 2):
        assert launch(processes, "sft", tmp_path / str(size), size, precision="bfloat16") == ["done"] * size
    assert_same_metrics(tmp_path / "2", tmp_path / "1", within=0.05)
    first, exact = (
        next(row["loss"] for row in metrics(folder) if "loss" in row) for folder in (tmp_path / "2", one_process("sft"))
    )
    assert first != pytest.approx(exact, abs=1e-4)
    assert any((w != w.bfloat16().float()).any() for w in weights(tmp_path / "2").values())


def test_a_lost_rank_ends_the_run_with_a_clear_error(processes: Any, one_process: Any, tmp_path: Path) -> None:
    """And the same command goes on."""
    other, lost = launch(processes, "sft", tmp_path / "sft", 2, stop_at=5, lose=True)
    assert lost == "killed"
    assert "LostRankError: rank 0 of 2 lost the connection to another rank" in other
    assert launch(processes, "sft", tmp_path / "sft", 2) == ["done"] * 2
    assert_same_metrics(tmp_path / "sft", one_process("sft"))


def test_torchrun_starts_a_run_again_after_a_rank_was_lost(one_process: Any, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
    command = [*torchrun, "-m", "tests.training.ranks", str(tmp_path / "sft")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "exitcode: -9" in ended.stderr  # a rank was killed on the way
    assert_same_metrics(tmp_path / "sft", one_process("sft"))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="this system does not tell the names of threads")
def test_no_thread_outlives_the_ranks_group(processes: Any, tmp_path: Path) -> None:
    """One that did aborted a rank, now and then, which had done its work."""
    assert launch(processes, "leaving", tmp_path / "leaving", 2) == ["done"] * 2


def test_restarts_on_several_machines_need_a_new_store_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun's own default would let a restarted rank connect to processes that are gone."""
    given = {"WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in {**given, "TORCHELASTIC_MAX_RESTARTS": "3"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        world()


def test_adapters_are_refused(processes: Any, tmp_path: Path) -> None:
    for end in launch(processes, "sft", tmp_path / "sft", 2, lora_rank=2):
        assert "ConfigError: adapters (LoRA) cannot be trained under torchrun yet" in end


# ---------------------------------------------------------------- a rank's part of a batch


def as_rank(monkeypatch: pytest.MonkeyPatch, rank: int, size: int) -> None:
    monkeypatch.setattr(batch_shares, "world", lambda: World(rank, size))


@pytest.mark.parametrize("lengths", [[3, 9, 4, 4, 1, 12, 5], [5], [2, 2], [50, 1, 1, 1]])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_index_counts_once_and_all_ranks_compute_equally_often(
    lengths: list[int], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    passes: set[int] = set()
    for rank in range(size):
        as_rank(monkeypatch, rank, size)
        parts = own_microbatches(lengths, tokens=10)
        assert all(members and factor in (0.0, 1.0) for members, factor in parts)
        assert all(len(members) == 1 or sum(lengths[i] for i in members) <= 10 for members, _ in parts)
        counted += [i for members, factor in parts if factor for i in members]
        assert [i for members, factor in parts if factor for i in members] == own_indices(lengths)
        passes.add(len(parts))
    assert sorted(counted) == list(range(len(lengths)))
    assert len(passes) == 1


def test_the_parts_are_alike_in_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [1 + (7 * i) % 50 for i in range(64)]
    sums: list[int] = []
    for rank in range(4):
        as_rank(monkeypatch, rank, 4)
        sums.append(sum(lengths[i] for i in own_indices(lengths)))
    assert max(sums) - min(sums) <= 2


def test_one_process_needs_no_process_group() -> None:
    import torch

    assert sum_over_ranks(0.1) == 0.1
    assert gather_in_order([(1, "b"), (0, "a")]) == ["a", "b"]
    rows = gather_rows_in_order([([2, 0], torch.tensor([2.0, 0.0])), ([1], torch.tensor([1.0]))], torch.device("cpu"))
    assert rows.tolist() == [0.0, 1.0, 2.0]
    assert not torch.distributed.is_initialized()
