"""The trainer's Adam: its epsilon is that of summed gradients in the unit of means, and a run keeps its own."""

import dataclasses
import io

import pytest
import torch
from rich.console import Console

from fastvi.data import Dataset, load_dataset
from fastvi.objectives import ELBO
from fastvi.training.config import RunFolder
from fastvi.training.module import VariationalModule
from fastvi.training.trainer import train
from fastvi.training.trainer_settings import ADAM_EPSILON
from support import runs

CONFIG = dataclasses.replace(runs.CONFIG, objective=ELBO(), epochs=1)


@pytest.fixture(scope="module")
def digits():
    whole = load_dataset("digits")
    return Dataset("digits", whole.train[:32], whole.test[:8], whole.image_shape, whole.likelihood)


def test_steps_on_means_are_those_on_sums(digits):
    """Burda, Grosse & Salakhutdinov: 1e-4 on sums over 20 examples. Adam does not see a scale that epsilon shares."""
    by_mean = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    by_sum = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizers = [
        torch.optim.Adam([by_mean], lr=1e-3, eps=ADAM_EPSILON),
        torch.optim.Adam([by_sum], lr=1e-3, eps=1e-4),
    ]
    gradients = 1e-4 * torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for gradient in gradients:  # small enough for epsilon to count
        by_mean.grad, by_sum.grad = gradient / 20.0, gradient
        for optimizer in optimizers:
            optimizer.step()
    # float64: a few products more on one of the sides.
    torch.testing.assert_close(by_mean, by_sum, rtol=1e-10, atol=0.0)


def test_a_resumed_run_keeps_the_epsilon_it_began_with(digits, tmp_path, monkeypatch):
    """A run of an older version is not changed halfway: its checkpoint holds what its optimiser had."""
    folder = RunFolder(tmp_path)
    folder.write_config(CONFIG)

    def epsilon():
        (state,) = folder.read_checkpoint()["optimizer_states"]
        return {group["eps"] for group in state["param_groups"]}

    def run(config):
        train(config, digits, folder, console=Console(file=io.StringIO()), progress=False)

    with monkeypatch.context() as older:
        older.setattr(
            VariationalModule,
            "configure_optimizers",
            lambda self: torch.optim.Adam(self.model.parameters(), lr=self.config.learning_rate, eps=1e-4, fused=True),
        )
        run(CONFIG)
    assert epsilon() == {1e-4}
    run(dataclasses.replace(CONFIG, epochs=2))
    assert epsilon() == {1e-4}
