"""Several processes: each draws its share of the batch's noise, and together they train as one does.

The runs are real ones under torchrun, on the CPU, over gloo.
"""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from fastvi import ops
from fastvi.data import Presenter, load_dataset
from fastvi.objectives import ELBO, IWAE, STL, DReG
from fastvi.training.batches import ShuffledBatches
from fastvi.training.config import RunFolder
from fastvi.training.module import VariationalModule
from support import recorded_train
from support.runs import CONFIG, assert_same_end, metrics_without_seconds, run

SMALL = ("--hidden-dims", "16", "--latent-dim", "3", "--learning-rate", "0.01", "--seed", "11", "--epochs", "2")
SMALL += ("--evaluation-samples", "20", "--evaluation-limit", "20", "--no-evaluate", "--no-progress")
# The batches are odd; 1,500 examples leave 168 for the fifth and last step of an epoch.
RUNS = {
    "iwae": ("--batch-size", "333"),
    "elbo": ("--batch-size", "333", "--objective", "elbo", "--warm-up-steps", "4", "--free-bits", "0.1"),
    "dreg": ("--batch-size", "333", "--objective", "dreg"),
    "chosen": ("--batch-size", "333", "--backward-samples", "1"),
    "gaussian": ("--batch-size", "333", "--likelihood", "gaussian"),
    # The epoch's last step has one example: the first of two processes has none.
    "empty": ("--batch-size", "1499"),
}
ROUNDING = {"rtol": 1e-6, "atol": 1e-5}
"""Sums over examples in another order, over ten steps: some 1e-7 of a bound, and of a parameter's step of 0.01."""


def arguments(name, folder):
    return [*SMALL, *RUNS[name], "--out", str(folder)]


def in_two(runs, cwd, **environment):
    """Train in two processes; return what torchrun had to say, and for each run both exit codes and both records."""
    # Stand-alone: torchrun looks for a port that is free.
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    finished = subprocess.run(
        [*torchrun, recorded_train.__file__, json.dumps(runs)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    files = [cwd / f"records-{rank}.json" for rank in range(2)]
    records = [json.loads(file.read_text()) for file in files if file.exists()]
    return finished, [zip(*pair, strict=True) for pair in zip(*records, strict=True)]


def alone(run_arguments):
    """Train in this process; return the bound of each step."""
    threads = torch.get_num_threads()
    try:
        code, bounds = recorded_train.train(run_arguments)
    finally:
        torch.set_num_threads(threads)
    assert code == 0
    return bounds


def assert_same_training(path, other):
    """Two runs agree to rounding: parameters, position, and the rows of their metrics."""
    first, second = RunFolder(path).read_checkpoint(), RunFolder(other).read_checkpoint()
    for key in ("epoch", "global_step", "epoch_examples"):
        assert first[key] == second[key]
    torch.testing.assert_close(first["state_dict"], second["state_dict"], **ROUNDING)
    rows, other_rows = (metrics_without_seconds(RunFolder(folder)) for folder in (path, other))
    assert [(row["step"], row["epoch"]) for row in rows] == [(row["step"], row["epoch"]) for row in other_rows]
    bounds, other_bounds = ([float(row["bound"]) for row in part] for part in (rows, other_rows))
    torch.testing.assert_close(bounds, other_bounds, **ROUNDING)


# The noise


SHARINGS = [(64, 1), (64, 2), (64, 4), (63, 2), (63, 4), (3, 4), (1, 2)]
"""Batch sizes and numbers of processes; the last two leave processes without an example."""


def shares(batch_size, processes):
    """The whole batch of a step, and the pieces that its processes take."""
    (whole,) = ShuffledBatches(batch_size, batch_size, seed=3)
    pieces = [next(iter(ShuffledBatches(batch_size, batch_size, 3, 0, rank, processes))) for rank in range(processes)]
    return whole, pieces


@pytest.mark.parametrize(("batch_size", "processes"), SHARINGS)
def test_processes_draw_the_noise_of_the_batch(batch_size, processes):
    whole, pieces = shares(batch_size, processes)
    mean, logvar = torch.randn(2, batch_size, 7, generator=torch.Generator().manual_seed(0)).unbind()
    present = Presenter(load_dataset("digits").train, "dynamic")

    def draws(batch):
        rows = slice(batch.row_offset, batch.row_offset + batch.indices.shape[0])
        given = {"seed": 5, "row_offset": batch.row_offset}
        z, log_ratio = ops.rsample_normal_with_log_ratio(mean[rows], logvar[rows], 3, **given)
        images = present(batch.indices, **given)
        return ops.rsample_normal(mean[rows], logvar[rows], 3, **given), z, log_ratio, images.unsqueeze(0)

    for expected, *found in zip(draws(whole), *map(draws, pieces), strict=True):
        assert torch.equal(torch.cat(found, 1), expected)


@pytest.mark.parametrize("objective", [ELBO(2), STL(2), IWAE(3), IWAE(3, backward_samples=1), DReG(3)], ids=str)
@pytest.mark.parametrize(("batch_size", "processes"), SHARINGS)
def test_gradients_of_the_pieces_add_up_to_the_batchs(objective, batch_size, processes):
    """Also those of an empty piece, which must be zeros: DDP waits for every parameter of every process."""
    torch.manual_seed(0)
    model = CONFIG.build_model().double()
    data = load_dataset("digits").train.double()

    def step(batch):
        bounds = objective(model, data[batch.indices], seed=5, row_offset=batch.row_offset)
        return bounds.detach(), torch.autograd.grad(bounds.sum(), tuple(model.parameters()))

    whole, pieces = shares(batch_size, processes)
    (expected_bounds, expected), found = step(whole), [step(piece) for piece in pieces]
    # Sums of float64 numbers up to some hundreds, in another order.
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(torch.cat([bounds for bounds, _ in found]), expected_bounds, **close)
    for gradient, *parts in zip(expected, *(gradients for _, gradients in found), strict=True):
        torch.testing.assert_close(sum(parts), gradient, **close)


# Runs


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run of two processes, and what was left of it when one of them got killed as it began its ninth step."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    finished, records = in_two([[*arguments("iwae", folder), "--checkpoint-every", "3"]], folder.parent, KILL="1:8")
    assert finished.returncode != 0
    assert records == []
    return folder


@pytest.fixture(scope="module")
def runs(killed, tmp_path_factory):
    """All runs of two processes, one after the other, because starting them takes longer than running them.

    What torchrun had to say, by name the exit codes and records of both processes, and the folder of the runs.
    """
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(killed, folder / "killed")
    alone([*arguments("iwae", folder / "from-one"), "--epochs", "1"])
    whole = {name: arguments(name, folder / name) for name in RUNS}
    whole["iwae"].remove("--no-evaluate")
    resumed = {
        "killed": ["--resume", str(folder / "killed"), "--no-evaluate"],
        "from-one": ["--resume", str(folder / "from-one"), "--no-evaluate", "--epochs", "2"],
    }
    mistaken = {
        "diverging": [*arguments("iwae", folder / "diverging"), "--learning-rate", "1e30"],
        "in the way": arguments("iwae", folder / "iwae"),
    }
    commands = whole | resumed | mistaken
    finished, records = in_two(list(commands.values()), folder)
    assert finished.returncode == 0, finished.stderr
    return finished, dict(zip(commands, (tuple(record) for record in records), strict=True)), folder


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_as_one(runs, tmp_path, name):
    _, records, folder = runs
    codes, (bounds, bounds_of_the_other) = records[name]
    assert codes == (0, 0)
    assert bounds == bounds_of_the_other
    torch.testing.assert_close(bounds, alone(arguments(name, tmp_path / name)), **ROUNDING)
    assert_same_training(folder / name, tmp_path / name)
    assert RunFolder(folder / name).read_config() == RunFolder(tmp_path / name).read_config()


@pytest.mark.slow
def test_run_goes_on_after_a_worker_was_killed(runs, killed, tmp_path):
    """In two processes to the same bits, for of two terms the order does not matter; in one to rounding."""
    _, records, folder = runs
    kept = RunFolder(killed).read_checkpoint()["global_step"]
    assert kept == 6  # in the middle of the second epoch, and two steps before the worker's end
    _, (whole, _) = records["iwae"]
    codes, (bounds, _) = records["killed"]
    assert codes == (0, 0)
    assert bounds == whole[kept:]
    assert_same_end(RunFolder(folder / "killed"), RunFolder(folder / "iwae"))
    in_one = shutil.copytree(killed, tmp_path / "in-one")
    torch.testing.assert_close(alone(["--resume", str(in_one), "--no-evaluate"]), whole[kept:], **ROUNDING)
    assert_same_training(in_one, folder / "iwae")


@pytest.mark.slow
def test_run_of_one_process_goes_on_in_two(runs):
    _, records, folder = runs
    _, (whole, _) = records["iwae"]
    codes, (bounds, _) = records["from-one"]
    assert codes == (0, 0)
    torch.testing.assert_close(bounds, whole[len(whole) // 2 :], **ROUNDING)
    assert_same_training(folder / "from-one", folder / "iwae")


@pytest.mark.slow
def test_one_process_writes_and_speaks(runs):
    finished, records, folder = runs
    for name in ("diverging", "in the way"):
        codes, _ = records[name]
        assert codes == (2, 2)
    errors = finished.stderr.splitlines()
    assert len(errors) == 2, finished.stderr
    assert errors[0].startswith("Error: the bound became nan in epoch 1: ")
    assert errors[1].startswith(f"Error: {folder / 'iwae'} holds a run: ")
    names = {path.name for path in folder.iterdir() if path.is_dir()}
    assert names == {*RUNS, "killed", "from-one", "diverging"}
    for name in names:
        assert finished.stdout.count(f"run folder: {folder / name}\n") == 1
    assert finished.stdout.count("test ELBO") == 1
    assert RunFolder(folder / "iwae").evaluation_file.exists()
    assert not list(folder.rglob("*.partial"))


FAULTS = {
    # The second process, on another machine perhaps, reads other pixels.
    "data": """
if rank == 1:
    whole = fastvi.data.load_dataset
    def load(*arguments):
        data = whole(*arguments)
        return dataclasses.replace(data, train=data.train.flip(0))
    fastvi.data.load_dataset = load
""",
    # The first process, which alone writes, finds no room for what is as large as a checkpoint.
    "disk": """
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
""",
    # Control-C reaches all processes of a terminal, and first of all the other ones here.
    "control-c": """
step = fastvi.training.module.VariationalModule.training_step
def interrupted(self, batch, batch_index):
    step(self, batch, batch_index)
    if batch.step == 6:
        time.sleep(0.2 * (1 - rank))
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
fastvi.training.module.VariationalModule.training_step = interrupted
""",
}
WORDS = {
    "data": (2, "Error: the data are not those of the run run: its training images have other pixels than these"),
    "disk": (2, "Error: run/checkpoints/last.ckpt cannot be written: File too large"),
    "control-c": (
        130,
        "interrupted; to go on: torchrun --standalone --nproc-per-node 2 -m fastvi train --resume run --no-evaluate",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_what_stops_one_process_stops_all_in_one_line(tmp_path, fault):
    code = "import dataclasses, json, os, resource, signal, sys, time\n"
    code += "import fastvi.data, fastvi.training.module\nfrom fastvi.cli import app\nrank = int(os.environ['RANK'])\n"
    code += FAULTS[fault]
    code += "sys.argv[0] = '/lib/fastvi/__main__.py'\n"
    code += "try:\n    app(['train', *json.loads(sys.argv[1])])\n"
    code += "except SystemExit as ended:\n    open(f'code-{rank}', 'w').write(str(ended.code))\n"
    run_arguments = ["--out", "run", "--batch-size", "333", "--hidden-dims", "16", "--epochs", "2", "--no-evaluate"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    finished = subprocess.run(
        [*torchrun, sys.executable, "-c", code, json.dumps(run_arguments)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    code_expected, line = WORDS[fault]
    codes = [(tmp_path / f"code-{rank}").read_text() for rank in range(2)]
    assert codes == [str(code_expected)] * 2, finished.stderr
    said = [text for text in (finished.stdout + finished.stderr).splitlines() if text.startswith(("Error", "interr"))]
    assert len(said) == 1, finished.stderr
    assert said[0].startswith(line)
    assert "Traceback" not in finished.stderr
    assert not list(tmp_path.rglob("*.partial"))


def test_package_runs_as_a_module():
    """As torchrun wants it: ``torchrun -m fastvi train``."""
    shown = subprocess.run(
        [sys.executable, "-m", "fastvi", "train", "--help"], capture_output=True, text=True, check=True
    )
    assert "--checkpoint-every" in shown.stdout


def test_sigterm_stays_what_it_was(tmp_path, monkeypatch):
    """Lightning's own handler talks to the other processes, which need not be listening."""
    during = []
    step = VariationalModule.training_step

    def observed(self, batch, batch_index):
        during.append(signal.getsignal(signal.SIGTERM))
        step(self, batch, batch_index)

    monkeypatch.setattr(VariationalModule, "training_step", observed)
    before = signal.getsignal(signal.SIGTERM)
    run(tmp_path / "run", load_dataset("digits"), CONFIG)
    assert set(during) == {before}
    assert signal.getsignal(signal.SIGTERM) == before
