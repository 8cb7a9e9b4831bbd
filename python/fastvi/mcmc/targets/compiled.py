"""A Python log density and its gradient as one compiled program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastvi.mcmc.integrators import Target, with_gradient


class CompiledTarget:
    """The target of a log density that ``torch.compile`` makes one program of, its gradient included.

    Autograd, which costs more than the arithmetic of a small log density, is gone when chains run. Compiling takes from
    seconds to a minute, at the first call and when the number of chains first changes.

    Parameters
    ----------
    log_density
        Of positions ``(C, D)`` gives ``(C,)``, in nats, in operations of PyTorch that it can compile as one graph.
    options
        Of ``torch.compile``, such as ``mode`` or ``backend``.

    Raises
    ------
    ValueError
        When it is called, if the log density has another shape.

    Examples
    --------
    >>> import torch
    >>> def banana(q):
    ...     return -0.5 * q[:, 0].square() - 5.0 * (q[:, 1] - q[:, 0].square()).square()
    >>> target = CompiledTarget(banana, backend="eager")  # without the option for speed
    >>> target(torch.tensor([[1.0, 2.0]]))
    (tensor([-5.5000]), tensor([[ 19., -10.]]))
    """

    is_target: ClassVar[bool] = True

    def __init__(self, log_density: Callable[[Tensor], Tensor], **options: Any) -> None:
        def checked(position: Tensor) -> Tensor:
            value = log_density(position)
            if value.shape != position.shape[:1]:
                raise ValueError(
                    f"CompiledTarget: the log density of positions {tuple(position.shape)} must have the shape "
                    f"{tuple(position.shape[:1])}, got {tuple(value.shape)}"
                )
            return value

        self._checked = checked
        self._compiled: Target = torch.compile(with_gradient(log_density), fullgraph=True, **options)
        self._shape: torch.Size | None = None

    def __call__(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log density ``(C,)`` and its gradient ``(C, D)`` at positions ``(C, D)``."""
        with torch.no_grad():
            if position.shape != self._shape:
                self._checked(position)  # an error in the compiled program would be the compiler's
                self._shape = position.shape
            return self._compiled(position.detach())
