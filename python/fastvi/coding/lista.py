"""LISTA: a few steps of proximal gradient descent as a network, whose matrices and thresholds are learned."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fastvi import ops
from fastvi._options import check_count
from fastvi._sizes import check_flag, check_integer, check_number
from fastvi.coding._arrays import check_rows, read_problem
from fastvi.coding.exact import active_set
from fastvi.coding.lasso import lasso_objective, lipschitz


class LISTA(nn.Module):
    """Codes z of data x by ``num_layers`` learned steps: z becomes S(x W_e + y W_s, t), S the soft threshold.

    Here y is z, or with momentum z + b (z - z_before). As made, W_e = D' / L, W_s = I - D D' / L and t = alpha / L, L
    being :func:`lipschitz`, so that the network is :func:`ista`, or with momentum :func:`fista` without restarts;
    :meth:`fit` trains it by back-propagation. Source: Gregor and LeCun 2010, "Learning fast approximations of sparse
    coding".

    Parameters
    ----------
    dictionary
        Atoms in rows, (A, D), float32 or float64: a tensor or a NumPy array.
    alpha
        Weight of the L1 norm, positive; see :func:`lasso_objective`.
    num_layers
        Steps, 1 or more.
    shared_weights
        One pair of matrices for all layers, as published; else each layer has its own. Thresholds are always those of a
        layer and an atom.
    momentum
        Whether a layer starts beyond the codes before it, by a learned factor.

    Attributes
    ----------
    dictionary
        A buffer, (A, D).
    encoder, recurrence, log_threshold, momentum_factor
        Parameters: (1 or num_layers, D, A), (1 or num_layers, A, A), (num_layers, A), (num_layers,).

    Raises
    ------
    TypeError, ValueError
        For an argument of a wrong type or out of its range.

    Examples
    --------
    >>> import torch
    >>> from fastvi.coding import ista
    >>> dictionary, x = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[3.0, 1.0]])
    >>> layers = LISTA(dictionary, alpha=0.5, num_layers=3)
    >>> torch.allclose(layers(x), ista(x, dictionary, 0.5, num_steps=3, tolerance=0.0).codes)
    True
    """

    dictionary: Tensor

    def __init__(
        self, dictionary: Any, alpha: float, num_layers: int, *, shared_weights: bool = True, momentum: bool = False
    ) -> None:
        super().__init__()
        problem = read_problem("LISTA", dictionary, dictionary, alpha)
        atoms = problem.dictionary.detach().clone()
        if (bound := lipschitz(atoms)) == 0.0:
            raise ValueError("LISTA: dictionary holds no atom but zeros")
        self.alpha = problem.alpha
        self.num_layers = check_count("LISTA", "num_layers", num_layers)
        self.shared_weights = check_flag("LISTA", "shared_weights", shared_weights)
        self.has_momentum = check_flag("LISTA", "momentum", momentum)
        self.register_buffer("dictionary", atoms)
        copies = 1 if self.shared_weights else self.num_layers
        identity = torch.eye(len(atoms), dtype=atoms.dtype, device=atoms.device)
        self.encoder = nn.Parameter((atoms.mT / bound).repeat(copies, 1, 1))
        self.recurrence = nn.Parameter((identity - atoms @ atoms.mT / bound).repeat(copies, 1, 1))
        self.log_threshold = nn.Parameter(atoms.new_full((self.num_layers, len(atoms)), math.log(self.alpha / bound)))
        factors = _momentum_factors(self.num_layers) if self.has_momentum else [0.0] * self.num_layers
        self.momentum_factor = nn.Parameter(atoms.new_tensor(factors), requires_grad=self.has_momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Codes (..., A) of x (..., D)."""
        return self.layers(x)[-1]

    def layers(self, x: Tensor) -> list[Tensor]:
        """The codes (..., A) behind each layer."""
        check_rows("LISTA", x, self.dictionary)
        thresholds = self.log_threshold.exp()
        found: list[Tensor] = []
        for layer in range(self.num_layers):
            k = 0 if self.shared_weights else layer
            values = x @ self.encoder[k]
            if found:
                values = values + self._origin(found, layer) @ self.recurrence[k]
            found.append(ops.soft_threshold(values, thresholds[layer]))
        return found

    def _origin(self, found: list[Tensor], layer: int) -> Tensor:
        """Where a layer starts: at the codes before it, or beyond them."""
        last = found[-1]
        if not self.has_momentum:
            return last
        before = found[-2] if len(found) > 1 else torch.zeros_like(last)
        return last + self.momentum_factor[layer] * (last - before)

    def fit(
        self,
        x: Tensor,
        codes: Tensor | None = None,
        *,
        epochs: int = 50,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        seed: int = 0,
    ) -> list[float]:
        """Train by Adam, whose step size falls to zero by a cosine; return each epoch's mean loss.

        Parameters
        ----------
        x
            Data, (N, D).
        codes
            Codes (N, A) to come near to: the loss of a row is the squared error of the last layer's codes, with a tenth
            of the mean of those of the layers before it, over the mean square of the codes. None: the loss is
            :func:`lasso_objective` of the last layer's codes, for which nothing has to be solved beforehand.
        epochs, batch_size, learning_rate
            Passes over the rows, rows for each step, Adam's first step size: less for more layers, such as 4e-4 for 16.
        seed
            Of the order of the rows.

        Raises
        ------
        TypeError, ValueError
            For an argument of a wrong type or out of its range.
        """
        for name, value in (("epochs", epochs), ("batch_size", batch_size)):
            check_count("LISTA.fit", name, value)
        if not 0.0 < check_number("LISTA.fit", "learning_rate", learning_rate) < math.inf:
            raise ValueError(f"LISTA.fit: learning_rate must be positive and finite, got {learning_rate:g}")
        if x.dim() != 2 or len(x) == 0:
            raise ValueError(f"LISTA.fit: x has shape {tuple(x.shape)}, expected (N, D) with at least one row")
        if codes is not None and tuple(codes.shape) != (len(x), len(self.dictionary)):
            raise ValueError(
                f"LISTA.fit: codes has shape {tuple(codes.shape)}, expected {(len(x), len(self.dictionary))}"
            )
        scale = 1.0 if codes is None else float(codes.square().sum(-1).mean())
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=learning_rate)
        steps = epochs * -(-len(x) // batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        generator = torch.Generator().manual_seed(check_integer("LISTA.fit", "seed", seed))
        losses = []
        for _ in range(epochs):
            total = 0.0
            for rows in torch.randperm(len(x), generator=generator).split(batch_size):
                optimizer.zero_grad()
                loss = self._loss(x[rows], None if codes is None else codes[rows], scale)
                loss.backward()
                optimizer.step()
                schedule.step()
                total += float(loss.detach()) * len(rows)
            losses.append(total / len(x))
        return losses

    def _loss(self, x: Tensor, codes: Tensor | None, scale: float) -> Tensor:
        if codes is None:
            objective: Tensor = lasso_objective(x, self(x), self.dictionary, self.alpha)
            return objective.mean()
        errors = [(each - codes).square().sum(-1).mean() / (scale or 1.0) for each in self.layers(x)]
        if len(errors) == 1:
            return errors[-1]
        return errors[-1] + 0.1 * torch.stack(errors[:-1]).mean()

    def optimal_codes(self, x: Tensor) -> Tensor:
        """The codes (..., A) at the minimum of the Lasso, by :func:`active_set`, which the network comes near to."""
        codes: Tensor = active_set(x, self.dictionary, self.alpha).codes
        return codes


def _momentum_factors(count: int) -> list[float]:
    """FISTA's factors before each step; nothing is behind the first."""
    factors, t = [0.0], 1.0
    for _ in range(count - 1):
        following = (1.0 + math.sqrt(1.0 + 4.0 * t * t)) / 2.0
        factors.append((t - 1.0) / following)
        t = following
    return factors
