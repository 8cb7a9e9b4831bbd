"""Two processes over gloo with validation, schedule, averaging and patience: what one process would have done."""

from __future__ import annotations

import csv
import os
import subprocess
import sys

import pytest
import torch

from fastvi.training.config import RunFolder
from support.command import call

OPTIONS = "--epochs 4 --hidden-dims 8 --latent-dim 2 --num-samples 2 --batch-size 333 --seed 4 --no-evaluate"
OPTIONS += " --schedule cosine --schedule-warm-up 2 --gradient-clip 5 --weight-decay 0.01 --weight-averaging 0.9"
OPTIONS += " --validation-split 101 --patience 2 --threads 1 --no-progress --out"


@pytest.mark.slow
@pytest.mark.cpu_kernels
def test_two_processes_do_what_one_does(tmp_path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "fastvi"]
    finished = subprocess.run(
        [*torchrun, "train", *OPTIONS.split(), "two"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    threads = torch.get_num_threads()
    try:
        result = call("train", *OPTIONS.split(), tmp_path / "one")
    finally:
        torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    two, one = RunFolder(tmp_path / "two"), RunFolder(tmp_path / "one")
    # Sums over examples in another order, over some twenty steps of 0.001.
    torch.testing.assert_close(
        dict(two.load_model().state_dict()), dict(one.load_model().state_dict()), rtol=1e-5, atol=1e-5
    )
    for name in ("metrics_file", "divergence_file"):
        rows, others = ([dict(row) for row in read(getattr(folder, name))] for folder in (two, one))
        assert len(rows) == len(others) == 4
        for row, other in zip(rows, others, strict=True):
            assert row.keys() == other.keys()
            for column in row.keys() - {"seconds"}:
                assert float(row[column]) == pytest.approx(float(other[column]), rel=1e-5, abs=1e-5)


def read(path):
    with path.open(newline="") as file:
        yield from csv.DictReader(file)
