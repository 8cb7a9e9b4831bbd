"""Validation, early stopping and the best checkpoint: on planted curves, against sums by hand, resumed to the bit."""

from __future__ import annotations

import csv
import dataclasses
import io

import pytest
import torch
from rich.console import Console
from torch.distributions import Independent, Normal

from fastvi.data import Dataset, binarize, load_dataset
from fastvi.models import VAE, HierarchicalVAE
from fastvi.objectives import ELBO
from fastvi.seeding import mix_seed
from fastvi.training.batches import VALIDATION_STREAM
from fastvi.training.config import RunError, RunFolder
from fastvi.training.module import VariationalModule
from fastvi.training.sources import split_indices
from fastvi.training.trainer import train
from fastvi.training.validation import BestEpoch, divergence_by_dimension
from support.runs import CONFIG, assert_same_end, run

VALIDATED = dataclasses.replace(CONFIG, validation_split=0.2)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """A hundred of the digits: 8 x 8, seven batches of 16."""
    whole = load_dataset("digits")
    return Dataset("digits", whole.train[:100], whole.test[:40], whole.image_shape, whole.likelihood)


class StopHereError(Exception):
    """Raised by a test in the middle of a run."""


def rows_of(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def plant(monkeypatch: pytest.MonkeyPatch, curve: list[float]) -> None:
    """Let the validation of epoch i give the value i of a curve."""
    whole = VariationalModule.validate_epoch

    def validate_epoch(self):
        update = self.best.update
        self.best.update = lambda _, epoch: update(curve[epoch - 1], epoch)
        whole(self)
        del self.best.update
        self.validation_value = curve[self.current_epoch]

    monkeypatch.setattr(VariationalModule, "validate_epoch", validate_epoch)


@pytest.mark.parametrize("split", [0.2, 20])
def test_a_split_is_drawn_by_the_seed_and_parts_the_examples(split) -> None:
    config = dataclasses.replace(CONFIG, validation_split=split)
    training, validation = split_indices(config, 100)
    assert (training.shape, validation.shape) == ((80,), (20,))
    assert sorted([*training.tolist(), *validation.tolist()]) == list(range(100))
    assert torch.equal(split_indices(config, 100)[1], validation)
    assert not torch.equal(split_indices(dataclasses.replace(config, seed=6), 100)[1], validation)
    assert split_indices(CONFIG, 100) == (None, None)


def test_only_the_others_train_and_the_bound_is_that_of_the_validation_examples(tmp_path, digits, monkeypatch) -> None:
    seen = []
    whole = VariationalModule.training_step

    def watched(self, batch, batch_index):
        seen.append(batch.global_size)
        whole(self, batch, batch_index)

    monkeypatch.setattr(VariationalModule, "training_step", watched)
    folder = run(tmp_path / "run", digits, VALIDATED)
    assert seen == [16] * 15  # 80 examples, in three epochs
    _, chosen = split_indices(VALIDATED, 100)
    images = binarize(digits.train[chosen], mix_seed(5, VALIDATION_STREAM, 1))
    model = folder.load_model()
    with torch.no_grad():
        bound = VALIDATED.objective(model, images, seed=mix_seed(5, VALIDATION_STREAM, 2))
    last = rows_of(folder.metrics_file)[-1]
    # Sums of 20 float32 values by batches of 16, or by one of 20.
    assert float(last["validation_bound"]) == pytest.approx(bound.double().mean().item(), rel=1e-5)
    mean, logvar = model.encode(images)
    q = Normal(mean, (0.5 * logvar).exp())
    expected = torch.distributions.kl_divergence(q, Normal(0.0, 1.0)).mean(0)
    found = rows_of(folder.divergence_file)[-1]
    assert list(found) == ["step", "epoch", "divergence_0", "divergence_1"]
    assert [float(found[f"divergence_{i}"]) for i in range(2)] == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-6)
    assert int(last["collapsed_dims"]) == int((expected < 0.01).sum())


def test_divergence_by_dimension_adds_up_to_the_divergence() -> None:
    torch.manual_seed(0)
    x = (torch.rand(5, 16) < 0.5).float()
    model = VAE(16, 3, (4,))
    mean, logvar = model.encode(x)
    q = Independent(Normal(mean, (0.5 * logvar).exp()), 1)
    prior = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
    found = divergence_by_dimension(model, x)
    assert found.shape == (5, 3)
    torch.testing.assert_close(found.sum(1), torch.distributions.kl_divergence(q, prior), rtol=1e-5, atol=1e-6)
    assert divergence_by_dimension(HierarchicalVAE(16, (3, 2), (4,), (4,)), x) is None


def test_the_best_epoch_of_a_curve() -> None:
    best = BestEpoch(higher_is_better=True)
    assert [best.update(value, epoch) for epoch, value in enumerate([-3.0, -2.0, -2.0, -2.5, -1.0], 1)] == [
        True,
        True,
        False,
        False,
        True,
    ]
    best = BestEpoch(higher_is_better=False, value=2.0, epoch=3)
    assert not best.update(2.5, 4)
    assert [best.is_over(epoch, 2) for epoch in (3, 4, 5, 6)] == [False, False, True, True]
    assert not best.is_over(100, 0)
    assert best.update(1.5, 5)
    assert not best.is_over(5, 2)


def test_a_run_ends_when_its_patience_does_and_keeps_the_best(tmp_path, digits, monkeypatch) -> None:
    """The best is epoch 3; epochs 4 and 5 are not better."""
    kept = {}
    whole = VariationalModule.on_train_epoch_end

    def watched(self):
        whole(self)
        kept[self.current_epoch + 1] = {name: value.clone() for name, value in self.result.state_dict().items()}

    monkeypatch.setattr(VariationalModule, "on_train_epoch_end", watched)
    plant(monkeypatch, [-30.0, -31.0, -20.0, -21.0, -20.5, -1.0, -1.0])
    config = dataclasses.replace(VALIDATED, epochs=7, patience=2)
    folder, log = RunFolder(tmp_path / "run"), io.StringIO()
    folder.write_config(config)
    model = train(config, digits, folder, console=Console(file=log, width=200), progress=False)
    assert list(kept) == [1, 2, 3, 4, 5]
    for state in (model.state_dict(), folder.load_model().state_dict()):
        torch.testing.assert_close(dict(state), kept[3], rtol=0, atol=0)
    assert [row["epoch"] for row in rows_of(folder.metrics_file)] == ["1", "2", "3", "4", "5"]
    lines = log.getvalue().splitlines()
    assert lines[-1] == "the model is that of epoch 3, with the best validation bound -20.000"
    assert lines[-2].startswith("epoch 5/7, step 25, bound -")
    assert lines[-2].endswith(", validation bound -20.500 nats")
    before = {path: path.read_bytes() for path in folder.path.rglob("*.c*") if path.is_file()}
    again = train(dataclasses.replace(config, epochs=9), digits, folder, console=Console(quiet=True), progress=False)
    torch.testing.assert_close(dict(again.state_dict()), kept[3], rtol=0, atol=0)
    assert before == {path: path.read_bytes() for path in before}


def test_without_patience_the_model_is_the_last(tmp_path, digits, monkeypatch) -> None:
    plant(monkeypatch, [-30.0, -31.0, -32.0])
    folder = run(tmp_path / "run", digits, VALIDATED)
    assert not folder.best_checkpoint_file.exists()
    last = {name.removeprefix("model."): value for name, value in folder.read_checkpoint()["state_dict"].items()}
    torch.testing.assert_close(dict(folder.load_model().state_dict()), last, rtol=0, atol=0)
    assert folder.read_checkpoint()["best"] == {"value": -30.0, "epoch": 1, "after": 3}


EVERYTHING = dataclasses.replace(
    VALIDATED,
    epochs=6,
    patience=2,
    schedule="cosine",
    schedule_warm_up=3,
    gradient_clip=5.0,
    weight_decay=0.01,
    weight_averaging=0.9,
)


@pytest.mark.parametrize("where", ["step 3", "step 12", "validation 4", "best 3", "last 3", "last 5"])
def test_a_run_that_was_killed_anywhere_resumes_to_the_bit(tmp_path, digits, monkeypatch, where) -> None:
    """In a step, while it validates, and before or between the files of an epoch's end; the best epoch is the third."""
    curve = [-30.0, -31.0, -20.0, -21.0, -20.5, -1.0]
    plant(monkeypatch, curve)
    whole = run(tmp_path / "whole", digits, EVERYTHING)
    what, number = where.split()
    with monkeypatch.context() as patch:
        if what == "step":
            step = VariationalModule.training_step

            def training_step(self, batch, batch_index):
                if batch.step == int(number):
                    raise StopHereError
                step(self, batch, batch_index)

            patch.setattr(VariationalModule, "training_step", training_step)
        elif what == "validation":
            validate = VariationalModule.validate_epoch

            def validate_epoch(self):
                validate(self)
                if self.current_epoch + 1 == int(number):
                    raise StopHereError

            patch.setattr(VariationalModule, "validate_epoch", validate_epoch)
        else:
            from fastvi.training.callbacks import LastCheckpoint

            write = LastCheckpoint._write

            def killed(self, trainer, path):
                if path.stem == what and trainer.current_epoch + 1 == int(number) and trainer.is_last_batch:
                    raise StopHereError
                write(self, trainer, path)

            patch.setattr(LastCheckpoint, "_write", killed)
        with pytest.raises(StopHereError):
            run(tmp_path / "part", digits, EVERYTHING, checkpoint_every=2)
    part = run(tmp_path / "part", digits, EVERYTHING, checkpoint_every=2)
    assert_same_end(part, whole)
    assert part.read_checkpoint()["epoch"] == 4
    for name in ("divergence_file",):
        assert getattr(part, name).read_bytes() == getattr(whole, name).read_bytes()
    assert part.read_checkpoint()["best"] == whole.read_checkpoint()["best"]
    torch.testing.assert_close(
        dict(part.load_model().state_dict()), dict(whole.load_model().state_dict()), rtol=0, atol=0
    )


def test_the_objective_of_validation_is_the_one_after_its_warm_up(tmp_path, digits) -> None:
    """The divergence has its whole weight there, though not in training yet."""
    objective = ELBO(1, analytic_kl=True, warm_up_steps=10**6)
    config = dataclasses.replace(VALIDATED, objective=objective, epochs=1)
    folder = run(tmp_path / "run", digits, config)
    _, chosen = split_indices(config, 100)
    images = binarize(digits.train[chosen], mix_seed(5, VALIDATION_STREAM, 1))
    with torch.no_grad():
        bound = ELBO(1)(folder.load_model(), images, seed=mix_seed(5, VALIDATION_STREAM, 2))
    (row,) = rows_of(folder.metrics_file)
    assert float(row["validation_bound"]) == pytest.approx(bound.double().mean().item(), rel=1e-5)


def test_a_split_that_leaves_nothing_and_files_that_are_missing_are_named(tmp_path, digits) -> None:
    with pytest.raises(RunError, match="validation_split 100 would leave none of the 100 training examples"):
        run(tmp_path / "none", digits, dataclasses.replace(CONFIG, validation_split=100))
    folder = run(tmp_path / "run", digits, dataclasses.replace(VALIDATED, patience=2))
    folder.best_checkpoint_file.unlink()
    with pytest.raises(RunError, match=r"best\.ckpt is missing"):
        folder.load_model()
