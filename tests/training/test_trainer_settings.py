"""Schedules, clipping, weight decay and averaging: values of closed forms, and runs that resume to the bit."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from fastvi.data import Dataset, load_dataset
from fastvi.training.averaging import WeightAverage
from fastvi.training.config import RunError
from fastvi.training.module import VariationalModule
from fastvi.training.schedules import rate_factor
from support.runs import CONFIG, assert_same_end, run

SETTINGS = {
    "schedule": "cosine",
    "schedule_warm_up": 5,
    "schedule_end": 0.1,
    "gradient_clip": 0.5,
    "weight_decay": 0.01,
    "weight_averaging": 0.9,
}
EVERYTHING = dataclasses.replace(CONFIG, **SETTINGS)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """A hundred of the digits: 8 x 8, seven batches of 16."""
    whole = load_dataset("digits")
    return Dataset("digits", whole.train[:100], whole.test[:40], whole.image_shape, whole.likelihood)


class StopHereError(Exception):
    """Raised by a test in the middle of a run."""


def stop_at_step(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    whole = VariationalModule.training_step

    def training_step(self, batch, batch_index):
        if batch.step == step:
            raise StopHereError
        whole(self, batch, batch_index)

    monkeypatch.setattr(VariationalModule, "training_step", training_step)


def test_cosine_is_the_one_of_pytorch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40, eta_min=0.2)
    for step in range(40):
        assert rate_factor("cosine", step, 40, end=0.2) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        scheduler.step()


def test_staged_is_the_one_of_burda() -> None:
    """3^i passes at 10^(-i / 7), i = 0 to 7, here of ten steps each."""
    expected = [10 ** (-stage / 7) for stage in range(8) for _ in range(10 * 3**stage)]
    assert len(expected) == 32800
    found = [rate_factor("staged", step, 32800) for step in range(32800)]
    assert found == pytest.approx(expected, rel=1e-12)


def test_warm_up_is_linear_and_comes_before_the_rest() -> None:
    assert [rate_factor("constant", step, 9, warm_up_steps=4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert rate_factor("cosine", 3, 14, warm_up_steps=4) == 1.0
    for step in range(4, 14):
        assert rate_factor("cosine", step, 14, warm_up_steps=4) == rate_factor("cosine", step - 4, 10)


def test_steps_have_the_rate_of_the_schedule(tmp_path, digits, monkeypatch) -> None:
    rates = []
    whole = VariationalModule._take_step

    def watched(self, loss, step):
        whole(self, loss, step)
        rates.append(self.optimizers().param_groups[0]["lr"])

    monkeypatch.setattr(VariationalModule, "_take_step", watched)
    run(tmp_path / "run", digits, EVERYTHING)
    after = [0.1 + 0.45 * (1 + math.cos(math.pi * step / 16)) for step in range(16)]
    assert rates == pytest.approx([1e-2 * factor for factor in (0.2, 0.4, 0.6, 0.8, 1.0, *after)], rel=1e-12)


def test_the_average_follows_its_recursion() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2, dtype=torch.float64)
    average = WeightAverage(model, 0.9)
    expected = None
    for _ in range(20):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3, dtype=torch.float64))
        average.update(model)
        now = model.weight.detach().clone()
        expected = now if expected is None else 0.9 * expected + 0.1 * now
    # float64: PyTorch takes the same sum as a + 0.1 (theta - a).
    torch.testing.assert_close(average.model.weight.detach(), expected, rtol=1e-13, atol=1e-13)


def test_the_model_of_a_run_is_the_average_of_its_weights(tmp_path, digits, monkeypatch) -> None:
    expected: dict[str, torch.Tensor] = {}
    whole = VariationalModule._take_step

    def watched(self, loss, step):
        whole(self, loss, step)
        for name, value in self.model.state_dict().items():
            now = value.double()
            expected[name] = 0.75 * expected[name] + 0.25 * now if name in expected else now

    monkeypatch.setattr(VariationalModule, "_take_step", watched)
    folder = run(tmp_path / "run", digits, dataclasses.replace(CONFIG, weight_averaging=0.75))
    found = {name: value.double() for name, value in folder.load_model().state_dict().items()}
    # float32: an error of half a last place for each of the few steps that count.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    raw = folder.read_checkpoint()["state_dict"]
    assert any(not torch.allclose(raw[f"model.{name}"].double(), value) for name, value in expected.items())


def test_gradients_are_clipped_to_the_norm(tmp_path, digits, monkeypatch) -> None:
    norms = []
    whole = torch.optim.Adam.step

    def watched(self, *arguments, **options):
        gradients = [value.grad for group in self.param_groups for value in group["params"]]
        norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())
        return whole(self, *arguments, **options)

    for clip in (0.0, 0.5):
        norms.clear()
        with monkeypatch.context() as patch:
            patch.setattr(torch.optim.Adam, "step", watched)
            run(tmp_path / str(clip), digits, dataclasses.replace(CONFIG, epochs=1, gradient_clip=clip))
        assert len(norms) == 7
        if clip:
            assert norms == pytest.approx([0.5] * 7, rel=1e-4)
        else:
            assert min(norms) > 0.5


def test_decay_is_that_of_adamw() -> None:
    data = Dataset("mine", torch.rand(4, 4), torch.rand(4, 4), (2, 2), "bernoulli")
    for decay, kind in ((0.0, torch.optim.Adam), (0.25, torch.optim.AdamW)):
        config = dataclasses.replace(CONFIG, image_shape=(2, 2), weight_decay=decay, adam_beta1=0.8, adam_beta2=0.95)
        optimizer = VariationalModule(config, config.build_model(), data).configure_optimizers()
        assert type(optimizer) is kind
        (group,) = optimizer.param_groups
        assert group["betas"] == (0.8, 0.95)
        assert (group["weight_decay"], group["lr"]) == (decay, 1e-2)


@pytest.mark.parametrize("step", [3, 9])
def test_a_run_with_all_of_it_resumes_to_the_bit(tmp_path, digits, monkeypatch, step) -> None:
    whole = run(tmp_path / "whole", digits, EVERYTHING)
    with monkeypatch.context() as patch:
        stop_at_step(patch, step)
        with pytest.raises(StopHereError):
            run(tmp_path / "part", digits, EVERYTHING, checkpoint_every=2)
    part = run(tmp_path / "part", digits, EVERYTHING, checkpoint_every=2)
    assert_same_end(part, whole)
    torch.testing.assert_close(part.load_model().state_dict(), whole.load_model().state_dict(), rtol=0, atol=0)


def test_a_schedule_is_that_of_its_epochs(tmp_path, digits) -> None:
    first = dataclasses.replace(EVERYTHING, epochs=1)
    run(tmp_path / "run", digits, first)
    with pytest.raises(RunError, match="is of another run: its epochs is 1, not 3"):
        run(tmp_path / "run", digits, EVERYTHING)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"schedule": "linear"}, ValueError, "^schedule must be one of constant, cosine, staged, got 'linear'"),
        ({"schedule_warm_up": -1}, ValueError, "^schedule_warm_up must be at least 0, got -1"),
        ({"schedule_warm_up": 1.5}, TypeError, "^schedule_warm_up must be an int"),
        ({"schedule_end": 0.5}, ValueError, "^schedule_end has no meaning for the schedule constant"),
        ({"schedule": "cosine", "schedule_end": 1.5}, ValueError, "^schedule_end must be at most 1"),
        ({"schedule": "staged", "schedule_end": 0.0}, ValueError, "^schedule_end must be above 0"),
        ({"gradient_clip": float("nan")}, ValueError, "^gradient_clip must be finite and not negative"),
        ({"weight_decay": "0.1"}, TypeError, "^weight_decay must be a float"),
        ({"weight_averaging": 1.0}, ValueError, "^weight_averaging must be below 1"),
        ({"adam_beta2": 1.0}, ValueError, "^adam_beta2 must be below 1"),
        ({"validation_split": 2.5}, ValueError, "^validation_split must be a fraction below 1 or a whole number"),
        ({"patience": 3}, ValueError, "^patience needs validation_split"),
    ],
)
def test_settings_that_cannot_be_are_named(tmp_path, digits, changes, error, words) -> None:
    with pytest.raises(error, match=words):
        run(tmp_path / "run", digits, dataclasses.replace(CONFIG, **changes))
    assert not (tmp_path / "run").exists()
