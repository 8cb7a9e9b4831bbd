"""Predictive sparse decomposition: a dictionary together with an encoder that predicts codes in one pass."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fastvi import ops
from fastvi._options import check_count
from fastvi._sizes import check_integer, check_number
from fastvi.coding._arrays import check_alpha, check_rows, read_array
from fastvi.coding._atoms import Statistics, random_atoms, updated
from fastvi.coding.exact import active_set


class PSD(nn.Module):
    """Minimises 1/2 |x - z D|^2 + alpha sum |z| + weight/2 |z - F(x)|^2 over codes z, atoms D and encoder F in turn.

    F(x) = g tanh(x W + b), with a gain g of each atom. Source: Kavukcuoglu, Ranzato and LeCun 2008, "Fast inference in
    sparse coding algorithms with applications to object recognition" (arXiv 1010.3467).

    Parameters
    ----------
    num_features, num_atoms
        D and A.
    alpha
        Weight of the L1 norm, positive.
    prediction_weight
        Weight of the distance between codes and prediction, 0 or more; 0 is dictionary learning with an encoder
        beside it.
    seed
        Of the first dictionary, the encoder and the order of rows.

    Attributes
    ----------
    dictionary
        Atoms in rows, (A, D), each of norm 1: a buffer.
    has_atoms
        Whether they were learned, or are noise: a buffer.
    weight, bias, gain
        Parameters of the encoder: (D, A), (A,), (A,).

    Raises
    ------
    TypeError, ValueError
        For an argument of a wrong type or out of its range.

    Examples
    --------
    >>> import torch
    >>> model = PSD(num_features=4, num_atoms=8, alpha=0.1)
    >>> x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    >>> losses = model.fit(x, epochs=5)
    >>> losses[-1] < losses[0], model(x).shape
    (True, torch.Size([64, 8]))
    """

    dictionary: Tensor
    has_atoms: Tensor

    def __init__(
        self, num_features: int, num_atoms: int, alpha: float, *, prediction_weight: float = 1.0, seed: int = 0
    ) -> None:
        super().__init__()
        for name, value in (("num_features", num_features), ("num_atoms", num_atoms)):
            check_count("PSD", name, value)
        self.alpha = check_alpha("PSD", alpha)
        self.prediction_weight = check_number("PSD", "prediction_weight", prediction_weight)
        if not 0.0 <= self.prediction_weight < math.inf:
            raise ValueError(f"PSD: prediction_weight must be 0 or more and finite, got {prediction_weight:g}")
        self._generator = torch.Generator().manual_seed(check_integer("PSD", "seed", seed))
        noise = torch.randn(num_atoms, num_features, generator=self._generator)
        self.register_buffer("dictionary", noise / noise.norm(dim=1, keepdim=True))
        self.register_buffer("has_atoms", torch.tensor(False))  # saved, so that a loaded model goes on
        self.weight = nn.Parameter(self.dictionary.mT.clone())
        self.bias = nn.Parameter(torch.zeros(num_atoms))
        self.gain = nn.Parameter(torch.ones(num_atoms))

    def forward(self, x: Tensor) -> Tensor:
        """F(x), predicted codes (..., A) of x (..., D)."""
        check_rows("PSD", x, self.dictionary)
        codes: Tensor = self.gain * ops.mlp(x, [self.weight.mT], [self.bias], "tanh", activate_last=True)
        return codes

    def optimal_codes(self, x: Tensor, prediction: Tensor | None = None) -> Tensor:
        """Codes at the minimum, (..., A): of the whole objective where a prediction is given, else of the Lasso.

        The term |z - F|^2 is more rows of data for more columns of the dictionary: the Lasso of (x, sqrt(weight) F) for
        (D, sqrt(weight) I).
        """
        dictionary = self.dictionary
        if prediction is not None and self.prediction_weight > 0.0:
            root = math.sqrt(self.prediction_weight)
            identity = torch.eye(len(dictionary), dtype=dictionary.dtype, device=dictionary.device)
            x = torch.cat([x, root * prediction.detach()], -1)
            dictionary = torch.cat([dictionary, root * identity], -1)
        codes: Tensor = active_set(x, dictionary, self.alpha).codes
        return codes

    def loss(self, x: Tensor, codes: Tensor) -> Tensor:
        """The objective of each row, (N,), for data (N, D) and codes (N, A)."""
        rest = (x - codes @ self.dictionary).square().sum(-1)
        distance = (codes - self(x)).square().sum(-1)
        value: Tensor = 0.5 * rest + self.alpha * codes.abs().sum(-1) + 0.5 * self.prediction_weight * distance
        return value

    def fit(self, x: Any, *, epochs: int = 20, batch_size: int = 256, learning_rate: float = 3e-3) -> list[float]:
        """Learn from rows (N, D), a tensor or a NumPy array; return each epoch's mean objective.

        For each mini-batch: codes at the minimum, then each atom at its best value for the sums over the last epoch,
        then a step of Adam for the encoder, whose size falls to zero by a cosine. The first call takes rows for atoms.

        Raises
        ------
        TypeError, ValueError
            For an argument of a wrong type or out of its range.
        """
        rows = read_array("PSD.fit", "x", x).detach().to(self.dictionary)
        if rows.dim() != 2 or len(rows) == 0 or rows.shape[1] != self.dictionary.shape[1]:
            raise ValueError(
                f"PSD.fit: x has shape {tuple(rows.shape)}, expected (N, {self.dictionary.shape[1]}), N of 1 or more"
            )
        if not bool(torch.isfinite(rows).all()):
            raise ValueError("PSD.fit: x contains NaN or infinity; expected finite numbers")
        for name, value in (("epochs", epochs), ("batch_size", batch_size)):
            check_count("PSD.fit", name, value)
        if not 0.0 < check_number("PSD.fit", "learning_rate", learning_rate) < math.inf:
            raise ValueError(f"PSD.fit: learning_rate must be positive and finite, got {learning_rate:g}")
        self._start_from(rows)
        optimizer = torch.optim.Adam(self.parameters(), lr=learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(rows) // batch_size))
        sums = Statistics.empty(self.dictionary)
        losses = []
        for _ in range(epochs):
            total = 0.0
            for places in torch.randperm(len(rows), generator=self._generator).split(batch_size):
                batch = rows[places]
                with torch.no_grad():
                    codes = self.optimal_codes(batch, self(batch))
                    sums.add(batch, codes, float(len(rows)))
                    self.dictionary.copy_(updated(self.dictionary, sums, batch, self._generator))
                optimizer.zero_grad()
                loss = self.loss(batch, codes).mean()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += float(loss.detach()) * len(batch)
            losses.append(total / len(rows))
        return losses

    def _start_from(self, x: Tensor) -> None:
        if bool(self.has_atoms):
            return
        self.has_atoms.fill_(True)
        with torch.no_grad():
            self.dictionary.copy_(random_atoms(x, len(self.dictionary), self._generator))
            self.weight.copy_(self.dictionary.mT)
