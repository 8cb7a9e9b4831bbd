"""Variables of other launchers and schedulers: none reaches a result; only those of torchrun, complete, count."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastvi.training.config import RunFolder
from support.command import SMALL, assert_one_clear_line, call
from support.runs import metrics_without_seconds

pytestmark = pytest.mark.usefixtures("own_directory")

TRAIN = ("train", *SMALL, "--no-evaluate", "--threads", "1")
FOREIGN = {
    "slurm": {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "train",
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "3",
        "SLURM_NODEID": "0",
        "SLURM_NNODES": "2",
    },
    "slurm-per-node": {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"},
    "rank": {"RANK": "1"},
    "local-rank": {"LOCAL_RANK": "1"},
    "launch": {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "nowhere", "MASTER_PORT": "1"},
    "no-numbers": {"RANK": "", "LOCAL_RANK": "first", "WORLD_SIZE": "?", "SLURM_PROCID": "", "SLURM_NTASKS": "all"},
    "open-mpi": {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMI_RANK": "1", "PMIX_RANK": "1"},
    "lsf": {
        "LSB_JOBID": "1",
        "LSB_DJOB_RANKFILE": "nowhere",
        "JSM_NAMESPACE_LOCAL_RANK": "1",
        "JSM_NAMESPACE_SIZE": "2",
        "JSM_NAMESPACE_RANK": "1",
    },
    "kubeflow": {"KUBERNETES_PORT": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1", "WORLD_SIZE": "2", "RANK": "1"},
    "lightning": {
        "PL_TRAINER_MAX_STEPS": "1",
        "PL_TRAINER_FAST_DEV_RUN": "1",
        "PL_TRAINER_LIMIT_TRAIN_BATCHES": "1",
        "PL_TRAINER_GRADIENT_CLIP_VAL": "1e-9",
        "PL_GLOBAL_SEED": "1",
        "LT_DEVICES": "2",
        "NODE_RANK": "1",
        "GROUP_RANK": "1",
    },
    "torchrun-of-one": {
        "TORCHELASTIC_RUN_ID": "1",
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "GROUP_RANK": "0",
        "MASTER_ADDR": "nowhere",
        "MASTER_PORT": "1",
    },
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run in an environment without such variables."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert call(*TRAIN, "--out", folder).exit_code == 0
    return RunFolder(folder)


def assert_same_run(folder, other):
    first, second = folder.read_checkpoint(), other.read_checkpoint()
    torch.testing.assert_close(first["state_dict"], second["state_dict"], rtol=0, atol=0)
    assert metrics_without_seconds(folder) == metrics_without_seconds(other)


@pytest.mark.parametrize("variables", FOREIGN.values(), ids=FOREIGN)
def test_a_run_is_the_same_under_any_launcher(undisturbed, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    result = call(*TRAIN, "--out", "run")
    assert result.exit_code == 0, result.output
    assert_same_run(RunFolder(Path("run")), undisturbed)
    assert {name: os.environ[name] for name in variables} == variables
    assert list(Path().iterdir()) == [Path("run")]


@pytest.mark.parametrize("names", [("slurm", "rank"), ("no-numbers",), ("lsf", "lightning")], ids=str)
def test_a_process_begun_with_such_variables_writes_all(undisturbed, names):
    """Lightning reads its rank when it is imported."""
    variables = {name: value for key in names for name, value in FOREIGN[key].items()}
    command = [sys.executable, "-m", "fastvi", *TRAIN, "--out", "run"]
    finished = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    assert_same_run(RunFolder(Path("run")), undisturbed)


def test_a_checkpoint_of_a_scheduler_in_the_working_directory_is_left_alone(undisturbed, monkeypatch):
    """Lightning would begin a new run with it, whatever its seed."""
    assert call(*TRAIN, "--out", "other", "--seed", 99).exit_code == 0
    shutil.move("other/checkpoints/last.ckpt", "hpc_ckpt_1.ckpt")
    for name, value in FOREIGN["slurm"].items():
        monkeypatch.setenv(name, value)
    assert call(*TRAIN, "--out", "run").exit_code == 0
    assert_same_run(RunFolder(Path("run")), undisturbed)
    assert sorted(path.name for path in Path().iterdir()) == ["hpc_ckpt_1.ckpt", "other", "run"]


@pytest.mark.slow
def test_four_processes_of_srun_in_one_folder_are_one_run_and_three_lines(undisturbed):
    environments = [os.environ | FOREIGN["slurm"] | {"SLURM_PROCID": str(number)} for number in range(4)]
    command = [sys.executable, "-m", "fastvi", *TRAIN, "--out", "run"]
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for environment in environments
    ]
    outcomes = [(process.communicate(timeout=300)[1], process.returncode) for process in processes]
    assert sorted(code for _, code in outcomes) == [0, 2, 2, 2]
    for errors, code in outcomes:
        lines = errors.splitlines()
        assert len(lines) == (1 if code else 0), errors
        # In use, or finished before this one came.
        assert not code or lines[0].startswith(("Error: run is in use by ", "Error: run holds a run: "))
    assert_same_run(RunFolder(Path("run")), undisturbed)


TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "1",
    "RANK": "0",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "0",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "1",
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RANK": None}, "TORCHELASTIC_RUN_ID is set, as by torchrun, but RANK is not"),
        ({"WORLD_SIZE": None, "MASTER_PORT": ""}, "but WORLD_SIZE, MASTER_PORT are not"),
        ({"WORLD_SIZE": "two"}, "torchrun's variables must be numbers, got RANK='0', WORLD_SIZE='two'"),
        ({"RANK": "-1"}, "torchrun's variables must be numbers, got RANK='-1'"),
        ({"RANK": "2"}, "torchrun must start equally many processes on each machine, got RANK='2', WORLD_SIZE='2'"),
        ({"LOCAL_WORLD_SIZE": "0"}, "torchrun must start equally many processes on each machine"),
        ({"WORLD_SIZE": "3"}, "torchrun must start equally many processes on each machine"),
    ],
)
def test_torchruns_variables_count_only_when_complete(monkeypatch, changes, message):
    for name, value in (TORCHRUN | changes).items():
        if value is not None:
            monkeypatch.setenv(name, value)
    assert_one_clear_line(call(*TRAIN, "--out", "run"), message)
    assert list(Path().iterdir()) == []
