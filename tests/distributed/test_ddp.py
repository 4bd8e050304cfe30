"""Several processes grow one model: one decision, equal weights, and failures that all of them share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from launch import launch
from scenarios import FAULTS, SETTINGS, WRAPPERS

import growkit


def same(one: Any, other: Any) -> bool:
    """Whether nested states are equal bit for bit."""
    if isinstance(one, torch.Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert {name: tensor.shape for name, tensor in one.items()} == {n: t.shape for n, t in other.items()}
    return max(float((one[name] - other[name]).abs().max()) for name in one)


DEFAULT = (2, "splitting", torch.float64, "adam")
CASES = [
    pytest.param(*case, marks=() if case == DEFAULT else pytest.mark.slow)
    for ranks in (2, 4)
    for method in ("splitting", "copies", "new units")
    for dtype, optimizer in ((torch.float64, "adam"), (torch.float32, "adam"), (torch.float32, "sgd"))
    # The first gradients of a new unit are hardly more than rounding, and Adam divides by their size.
    if (case := (ranks, method, dtype, optimizer))[1:] != ("new units", torch.float32, "adam")
]


@pytest.mark.parametrize(("ranks", "method", "dtype", "optimizer"), CASES)
def test_a_run_equals_that_of_a_single_process_with_the_same_batches(ranks, method, dtype, optimizer, tmp_path):
    options = {"method": method, "dtype": dtype, "optimizer": optimizer}
    (alone,) = launch("train", 1, tmp_path, **options)
    results = launch("train", ranks, tmp_path, **options)
    assert len(alone["sums"]) == 3
    for result in results:
        assert result["sums"] == results[0]["sums"]
        assert same(result["weights"], results[0]["weights"])
        assert same(result["optimizer"], results[0]["optimizer"])
        assert result["edits"] == alone["edits"]
        assert distance(result["weights"], alone["weights"]) < (1e-10 if dtype == torch.float64 else 1e-5)


def test_the_wrapper_is_rebuilt_with_its_settings(tmp_path):
    results = launch("wrappers", 2, tmp_path)
    for name, settings in WRAPPERS.items():
        first, second = (result[name] for result in results)
        assert len(first["edits"]) == 6
        assert len(first["settings"]) == 4
        assert all(each == first["settings"][0] for each in first["settings"])
        wanted = {key: value for key, value in settings.items() if key in SETTINGS}
        assert wanted.items() <= first["settings"][0].items()
        assert first["alive"] == 1
        assert same(first["weights"], second["weights"])
    assert same(results[0]["plain"]["weights"], results[0]["views"]["weights"])
    assert results[0]["small buckets"]["settings"][0]["bucket_bytes_cap"] == 2**20


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    return launch("faults", 2, tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("how", FAULTS[:-1])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_failure_in_one_process_stops_all_or_is_skipped_by_all(how, rank, failed):
    stopped, skipped = ([result[how, rank, policy] for result in failed] for policy in ("raise", "skip"))
    for results in (stopped, skipped):
        assert same(results[0]["weights"], results[1]["weights"])
        assert same(results[0]["optimizer"], results[1]["optimizer"])
    for number, result in enumerate(stopped):
        assert (result["step"], result["steps"]) == (6, [3])
        assert isinstance(result["error"], growkit.PeerError) == (number != rank)
    assert f"process {rank} failed" in str(stopped[1 - rank]["error"])
    for result in skipped:
        assert result["error"] is None
        assert (result["step"], result["steps"], len(result["failures"])) == (12, [3, 9], 1)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_weights_that_differ_after_an_event_stop_all_whatever_the_policy(rank, policy, failed):
    for result in failed:
        drifted = result["drifts", rank, policy]
        assert isinstance(drifted["error"], growkit.RankError)
        assert "disagree about the weights after growth" in str(drifted["error"])
        assert (drifted["step"], drifted["steps"]) == (6, [3])
    assert same(*(result["drifts", rank, policy]["weights"] for result in failed))


@pytest.mark.slow
def test_the_first_process_decides_when_a_schedule_may_differ(tmp_path):
    first, second = launch("schedules", 2, tmp_path)
    assert first["error"] is None
    assert first["steps"] == second["steps"] == [4, 8]
    assert same(first["weights"], second["weights"])


def test_each_process_resumes_with_its_own_random_numbers_in_the_middle_of_an_epoch(tmp_path):
    results = launch("resume", 2, tmp_path, saved=str(tmp_path / "saved"))
    for rank, result in enumerate(results):
        assert result["whole"]["step"] == 18
        assert len(result["whole"]["edits"]) == 10
        for part in result.values() if rank else ():
            # Lightning saves the statistics of norms of the first process alone, and averages them in each.
            del part["weights"]["norm.running_mean"], part["weights"]["norm.running_var"]
        assert same(result["rest"], result["whole"])
    assert not same(results[0]["whole"]["random"], results[1]["whole"]["random"])


SPAWNED = """
import sys
import torch, pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from scenarios import *

if __name__ == "__main__":
    torch.manual_seed(1)
    module = Net()
    growth = growkit.Growth([Net2Net(0.3)], when=growkit.every(steps=3))
    savers = [ModelCheckpoint(sys.argv[1], "last")] if len(sys.argv) > 1 else []
    trainer = trainer_of(2, growth, *savers, strategy="ddp_spawn", max_epochs=2)
    trainer.fit(module, DataLoader(data(64), batch_size=8))
    fresh = growkit.load(trainer.checkpoint_callback.best_model_path, Net())
    print("grown to", fresh.net[0].out_features)
"""


def test_spawned_processes_leave_a_checkpoint_behind(tmp_path):
    finished = spawned(tmp_path, str(tmp_path / "saved"))
    assert finished.returncode == 0, finished.stderr
    assert "grown to 7" in finished.stdout
    assert "the module in the process that called fit has not grown" in finished.stderr


@pytest.mark.slow
def test_spawned_processes_without_checkpoints_are_refused(tmp_path):
    finished = spawned(tmp_path)
    assert finished.returncode != 0
    assert "growth in spawned processes needs checkpoints" in finished.stderr


def spawned(folder: Path, *arguments: str):
    import os
    import subprocess
    import sys

    script = folder / "script.py"
    script.write_text(SPAWNED)
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
