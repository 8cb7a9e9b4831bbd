"""The Lightning module: one bound, one model, and Adam."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from fastvi.data import Dataset, Presenter
from fastvi.models import VAE
from fastvi.objectives import ELBO, LinearWarmUp, make_objective
from fastvi.seeding import mix_seed
from fastvi.training._lightning import LightningModule, LightningOptimizer
from fastvi.training.batches import BINARIZATION_STREAM, NOISE_STREAM, Batch, ShuffledBatches
from fastvi.training.config import TrainingConfig
from fastvi.training.errors import DivergenceError
from fastvi.training.processes import from_first

ADAM_EPSILON = 5e-6
"""Added to the root of Adam's second moment.

The code of Burda, Grosse & Salakhutdinov 2016 has 1e-4 for gradients that are sums over batches of 20 examples. Here
they are means, a twentieth of such sums, and so is what is added to their root.
"""


class VariationalModule(LightningModule):
    """Maximises a bound; all that is drawn depends on (seed, step, place in the batch) alone.

    Attributes
    ----------
    model
        The model being trained.
    latest_bound
        Mean bound of the latest batch in nats, over all processes, a tensor without a graph.
    """

    def __init__(self, config: TrainingConfig, model: VAE, data: Dataset) -> None:
        super().__init__()
        self.automatic_optimization = False  # its hooks and closures cost as much as a small model's whole step
        self.config = config
        self.model = model
        self.objective = make_objective(config.objective, **config.objective_options())
        self.warm_up = LinearWarmUp(config.warm_up_steps, end=config.beta)
        self.examples = Presenter(data.train, config.binarization)
        self.latest_bound = torch.zeros(())
        self._epoch_total = torch.zeros((), dtype=torch.float64)
        self._epoch_examples = 0
        self._epoch_start = time.monotonic()

    def on_fit_start(self) -> None:
        """Follow the model to its device with what is not a part of it."""
        self.examples.to(self.device)
        self.latest_bound = self.latest_bound.to(self.device)
        self._epoch_total = self._epoch_total.to(self.device)

    def train_dataloader(self) -> ShuffledBatches:
        """Return the batches from the present step on: Lightning asks for them once a checkpoint is restored."""
        return ShuffledBatches(
            len(self.examples),
            self.config.batch_size,
            self.config.seed,
            self.trainer.global_step,
            self.trainer.global_rank,
            self.trainer.world_size,
        )

    def training_step(self, batch: Batch, _batch_index: int) -> None:
        """Take one step up the bound's mean over the whole batch."""
        x = self.examples(batch.indices, mix_seed(self.config.seed, BINARIZATION_STREAM, batch.step), batch.row_offset)
        objective = self.objective
        if isinstance(objective, ELBO) and batch.step <= self.config.warm_up_steps:
            objective = objective.with_beta(self.warm_up(batch.step))
        noise_seed = mix_seed(self.config.seed, NOISE_STREAM, batch.step)
        total = objective(self.model, x, seed=noise_seed, row_offset=batch.row_offset).sum()
        global_total = self.trainer.strategy.reduce(total.detach().double(), reduce_op="sum")
        self.latest_bound = global_total / batch.global_size
        self._epoch_total += global_total
        self._epoch_examples += batch.global_size
        # Processes average their gradients; times world_size, that average is the gradient of the whole batch's mean,
        # even where the shares differ in size.
        loss = total * (-self.trainer.world_size / batch.global_size)
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def on_train_epoch_start(self) -> None:
        """Start the epoch's averages."""
        self._epoch_total.zero_()
        self._epoch_examples = 0
        self._epoch_start = time.monotonic()

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean bound and seconds.

        Raises
        ------
        DivergenceError
            If the bound is infinite or NaN.
        RunError
            In every process, if the first cannot write them.
        """
        bound = self.epoch_bound
        if not math.isfinite(bound):
            raise DivergenceError(f"the bound became {bound} in epoch {self.current_epoch + 1}")
        metrics = {"epoch": self.current_epoch + 1, "bound": bound, "seconds": time.monotonic() - self._epoch_start}

        def log() -> None:
            for logger in self.loggers:
                logger.log_metrics(metrics, step=self.global_step)

        from_first(log)

    @property
    def epoch_bound(self) -> float:
        """Mean bound in nats over the examples met in this epoch."""
        return float(self._epoch_total) / max(1, self._epoch_examples)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the averages of an unfinished epoch, and whose checkpoint it is.

        Raises
        ------
        DivergenceError
            If a parameter is infinite or NaN: the last checkpoint is worth more than this one.
        """
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise DivergenceError(f"the parameters became infinite or NaN in epoch {self.current_epoch + 1}")
        checkpoint["settings"] = self.config.lasting()
        checkpoint["epoch_total"] = float(self._epoch_total)
        checkpoint["epoch_examples"] = self._epoch_examples

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the averages of an unfinished epoch."""
        self._epoch_total.fill_(checkpoint["epoch_total"])
        self._epoch_examples = checkpoint["epoch_examples"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return fused Adam."""
        return torch.optim.Adam(self.model.parameters(), lr=self.config.learning_rate, eps=ADAM_EPSILON, fused=True)
