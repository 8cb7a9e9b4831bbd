"""What a training step calls: a bound to be maximised, or a loss to be minimised, of each example.

An estimator is a frozen dataclass that derives from one of the two: its fields are its options, checked when it is
made, stored with a run, and found on the command line.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from fastvi._options import check_options
from fastvi.objectives.model import has_bound, require_encoder


class Objective(ABC):
    """A value for each example, whose gradient is the objective's estimator.

    Attributes
    ----------
    value_name, unit
        What the value is called in metrics, tables and lines on the terminal, and its unit there.
    is_bound
        Whether the value is a bound on log p(x), to be maximised; else it is a loss, to be minimised.
    uses_labels
        Whether ``x`` is the pair (images, labels), of shapes (B, D) and (B,).
    uses_score
        Whether the gradient is right for samples that have no path to the encoder's parameters: those of discrete
        variables. A run of a model whose ``samples_have_path`` is False is refused to a bound without it.

    Raises
    ------
    TypeError, ValueError
        When it is made, if a field is of a wrong type or out of its range.
    """

    value_name: ClassVar[str]
    unit: ClassVar[str]
    is_bound: ClassVar[bool]
    uses_labels: ClassVar[bool] = False
    uses_score: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_options(self)

    @abstractmethod
    def __call__(self, model: Any, x: Any, *, seed: int | None = None, row_offset: int = 0) -> Tensor:
        """Return the value of each example, ``(B,)``.

        Parameters
        ----------
        model
            What the objective asks for: see :mod:`fastvi.objectives.model`.
        x
            Data, ``(B, ...)``: whatever the model takes.
        seed
            Determines all that is drawn; None takes the seed from PyTorch's generator.
        row_offset
            Position of ``x[0]`` in the whole batch, so that a shard draws what it would have drawn in the whole.
        """
        ...

    def check_model(self, model: Any) -> None:
        """Raise before a run begins, and when it is called, where the objective cannot take the model.

        Raises
        ------
        TypeError, ValueError
            The message says what the model lacks.
        """
        return

    def at_step(self, step: int) -> Objective:
        """Return the objective as it is at training step ``step``, counted from 0: by default, as it always is."""
        return self


class Bound(Objective):
    """A bound on log p(x) in nats, to be maximised.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> from fastvi.objectives import draw, option
    >>> @dataclass(frozen=True)
    ... class Best(Bound):
    ...     num_samples: int = option("samples of which the largest weight is taken", 5, at_least=1)
    ...
    ...     def __call__(self, model, x, *, seed=None, row_offset=0):
    ...         drawn = draw(model, x, self.num_samples, seed=seed, row_offset=row_offset)
    ...         return drawn.log_weights.amax(0)
    >>> Best(3)
    Best(num_samples=3)
    >>> Best(0)
    Traceback (most recent call last):
    ...
    ValueError: Best: num_samples must be at least 1, got 0
    """

    value_name = "bound"
    unit = "nats"
    is_bound = True

    def check_model(self, model: Any) -> None:
        """Raise unless the model has a ``draw``, or ``encode`` and ``log_likelihood``."""
        if not has_bound(model):
            require_encoder(model, f"the bound {type(self).__name__}")


class Loss(Objective):
    """A loss to be minimised, such as a reconstruction error: no bound on log p(x)."""

    value_name = "loss"
    unit = ""
    is_bound = False
