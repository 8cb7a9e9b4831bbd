"""The Lightning module: one objective, one model, and Adam."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastvi.data import Dataset
from fastvi.seeding import mix_seed
from fastvi.training._lightning import LightningModule, LightningOptimizer
from fastvi.training.averaging import WeightAverage
from fastvi.training.batches import MODEL_STREAM, NOISE_STREAM, Batch
from fastvi.training.checkpoint import AVERAGE_KEY, BEST_KEY, SOURCE_KEY
from fastvi.training.config_file import FORMAT_KEY, RUN_FORMAT
from fastvi.training.errors import DivergenceError
from fastvi.training.labelled_source import source_of
from fastvi.training.loggers import DivergenceFile
from fastvi.training.own_model import OwnModel
from fastvi.training.processes import from_first
from fastvi.training.schedules import rate_factor
from fastvi.training.settings import TrainingConfig
from fastvi.training.sources import Source
from fastvi.training.validation import COLLAPSE_THRESHOLD, BestEpoch, validate


class VariationalModule(LightningModule):
    """Maximises a bound or minimises a loss; all that is drawn depends on (seed, step, place in the batch) alone.

    Attributes
    ----------
    model
        The model being trained.
    objective
        What is trained; ``objective.at_step(step)`` is what a step takes.
    average
        The moving average of its parameters; None where the run has none.
    source
        Where its examples come from.
    best, is_best
        The epoch with the best validation value, and whether that is the latest one.
    validation_value, divergence
        Of the latest validation, see `fastvi.training.validation.Sums`; None where there was none.
    history
        The figures of each epoch.
    latest_value
        The objective's mean over the latest batch, over all processes, a tensor without a graph.
    """

    def __init__(self, config: TrainingConfig, model: nn.Module, data: Dataset | Source) -> None:
        super().__init__()
        self.automatic_optimization = False  # its hooks and closures cost as much as a small model's whole step
        self.config = config
        self.model = model
        self.objective = config.objective
        self.source = data if isinstance(data, Source) else source_of(config, data)
        self.best = BestEpoch(self.objective.is_bound)
        self.is_best = False
        self._validated_epochs = 0
        self._latest_batch: Batch | None = None
        self.history: list[dict[str, float]] = []
        self.validation_value: float | None = None
        self.divergence: list[float] | None = None
        self.average = WeightAverage(model, config.weight_averaging) if config.weight_averaging else None
        self.latest_value = torch.zeros(())
        self._epoch_total = torch.zeros((), dtype=torch.float64)
        self._epoch_examples = 0
        self._epoch_start = time.monotonic()

    def on_fit_start(self) -> None:
        """Follow the model to its device with what is not a part of it."""
        self.source.to(self.device)
        if self.average is not None:
            self.average.to(self.device)
        self.latest_value = self.latest_value.to(self.device)
        self._epoch_total = self._epoch_total.to(self.device)

    def train_dataloader(self) -> Iterable[Batch]:
        """Return the batches from the present step on: Lightning asks for them once a checkpoint is restored."""
        return self.source.batches(self.trainer.global_step, self.trainer.global_rank, self.trainer.world_size)

    def training_step(self, batch: Batch, _batch_index: int) -> None:
        """Take one step up the bound's mean over the whole batch, or down the loss's."""
        objective = self.objective.at_step(batch.step)
        noise_seed = mix_seed(self.config.seed, NOISE_STREAM, batch.step)
        examples = self.source.present(batch)
        self._latest_batch = batch
        precise = self.config.precision != "bf16-mixed"
        with self._own_noise(batch.step), torch.autocast(self.device.type, torch.bfloat16, enabled=not precise):
            try:
                total = objective(self.model, examples, seed=noise_seed, row_offset=batch.row_offset).sum()
            except FloatingPointError as error:  # the model's own words for what became infinite or NaN
                raise DivergenceError(f"epoch {self.current_epoch + 1}: {error}") from error
        global_total = self.trainer.strategy.reduce(total.detach().double(), reduce_op="sum")
        self.latest_value = global_total / batch.global_size
        self._epoch_total += global_total
        self._epoch_examples += batch.global_size
        # Processes average their gradients; times world_size, that average is the gradient of the whole batch's mean,
        # even where the shares differ in size.
        sign = -1 if objective.is_bound else 1
        loss = total * (sign * self.trainer.world_size / batch.global_size)
        self._take_step(loss, batch.step)

    @contextlib.contextmanager
    def _own_noise(self, step: int) -> Iterator[None]:
        """Let what a module of the user's own draws by PyTorch's generators depend on (seed, step), such as dropout."""
        if not isinstance(self.config.model, OwnModel):
            yield
            return
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(mix_seed(self.config.seed, MODEL_STREAM, step, self.trainer.global_rank))
            yield

    def _take_step(self, loss: Tensor, step: int) -> None:
        """Move the parameters down the gradient of ``loss``, as the trainer's settings say for this step."""
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        optimizer.zero_grad()
        self.manual_backward(loss)
        if self.config.gradient_clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        if self.config.schedule != "constant" or step <= self.config.schedule_warm_up:
            self._set_rate(optimizer, step)
        optimizer.step()
        if self.average is not None:
            self.average.update(self.model)

    def _set_rate(self, optimizer: LightningOptimizer, step: int) -> None:
        config = self.config
        total = self.trainer.num_training_batches * config.epochs
        factor = rate_factor(config.schedule, step, total, config.schedule_warm_up, config.schedule_end)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * factor

    def on_train_epoch_start(self) -> None:
        """Start the epoch's averages."""
        self._epoch_total.zero_()
        self._epoch_examples = 0
        self._epoch_start = time.monotonic()

    def validate_epoch(self) -> None:
        """Take the objective on the validation examples, where there are some, and compare it with the best.

        Raises
        ------
        DivergenceError
            If its mean is infinite or NaN.
        """
        if not self.source.validates:
            return
        trainer = self.trainer
        sums = validate(self.config, self.result, self.source, trainer.global_rank, trainer.world_size, self.device)
        examples = trainer.strategy.reduce(sums.examples, reduce_op="sum")
        value = trainer.strategy.reduce(sums.value, reduce_op="sum") / examples
        self.validation_value = from_first(lambda: float(value))
        if not math.isfinite(self.validation_value):
            words = f"the validation {self.objective.value_name} became {self.validation_value}"
            raise DivergenceError(f"{words} in epoch {self.current_epoch + 1}")
        if sums.divergence is not None:
            self.divergence = (trainer.strategy.reduce(sums.divergence, reduce_op="sum") / examples).tolist()
        self._validated_epochs = self.current_epoch + 1
        self.is_best = self.best.update(self.validation_value, self.current_epoch + 1)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean bound or loss, the validation's, and seconds; end where patience has.

        Raises
        ------
        DivergenceError
            If the mean is infinite or NaN.
        RunError
            In every process, if the first cannot write them.
        """
        name, value = self.objective.value_name, self.epoch_value
        if not math.isfinite(value):
            raise DivergenceError(f"the {name} became {value} in epoch {self.current_epoch + 1}")
        epoch = self.current_epoch + 1
        metrics: dict[str, float] = {name: value}
        if self.validation_value is not None:
            metrics[f"validation_{name}"] = self.validation_value
        if self.divergence is not None:
            metrics["collapsed_dims"] = sum(nats < COLLAPSE_THRESHOLD for nats in self.divergence)
        # For callbacks that watch a figure; it is the same in all processes.
        self.log_dict(metrics, logger=False, sync_dist=self.trainer.world_size > 1)
        self._latest_batch = None
        row = {"epoch": epoch, **metrics, "seconds": time.monotonic() - self._epoch_start}

        self.history.append({"step": self.global_step, **row})

        def log() -> None:
            for logger in self.loggers:
                logger.log_metrics(row, step=self.global_step)
                if isinstance(logger, DivergenceFile) and self.divergence is not None:
                    logger.log_divergence(epoch, self.divergence, self.global_step)

        from_first(log)
        self.trainer.should_stop |= self.is_over

    @property
    def is_over(self) -> bool:
        """Whether patience has ended the run."""
        return self.best.is_over(self._validated_epochs, self.config.patience)

    @property
    def result(self) -> nn.Module:
        """The model that the run ends with: the average of its weights where there is one."""
        return self.model if self.average is None else self.average.model

    @property
    def epoch_value(self) -> float:
        """The objective's mean over the examples met in this epoch."""
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
        checkpoint[FORMAT_KEY] = RUN_FORMAT
        checkpoint["settings"] = self.config.lasting()
        checkpoint["epoch_total"] = float(self._epoch_total)
        checkpoint["epoch_examples"] = self._epoch_examples
        if self.average is not None:
            checkpoint[AVERAGE_KEY] = self.average.state_dict()
        state = self.source.state(self._latest_batch)
        if state is not None:
            checkpoint[SOURCE_KEY] = state
        if self.source.validates:
            checkpoint[BEST_KEY] = self.best.state_dict(self._validated_epochs)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the averages of an unfinished epoch."""
        self._epoch_total.fill_(checkpoint["epoch_total"])
        self._epoch_examples = checkpoint["epoch_examples"]
        if self.average is not None:
            self.average.load_state_dict(checkpoint[AVERAGE_KEY])
        if SOURCE_KEY in checkpoint:
            self.source.restore(checkpoint[SOURCE_KEY])
        if self.source.validates:
            state = checkpoint[BEST_KEY]
            self.best.load_state_dict(state)
            self._validated_epochs = state["after"]
            self.trainer.should_stop |= self.is_over  # a run that has ended stays as it is

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return fused Adam, or AdamW where the weights decay."""
        config = self.config
        options: dict[str, Any] = {
            "lr": config.learning_rate,
            "betas": (config.adam_beta1, config.adam_beta2),
            "eps": config.adam_epsilon,
            "fused": True,
        }
        if config.weight_decay:
            return torch.optim.AdamW(self.model.parameters(), weight_decay=config.weight_decay, **options)
        return torch.optim.Adam(self.model.parameters(), **options)
