"""Updates of a dictionary from codes: atoms of unit norm, each in turn at its best given the others.

Source: Mairal, Bach, Ponce and Sapiro 2010, "Online learning for matrix factorization and sparse coding".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_LEAST_USE = 1e-6
"""An atom whose mean squared code is below this fraction of the largest one is replaced by a row of the data."""


@dataclass
class Statistics:
    """Running sums over rows: products of codes (A, A), of codes and data (A, D), and how many rows they hold."""

    codes: Tensor
    data: Tensor
    rows: float = 0.0

    @classmethod
    def empty(cls, dictionary: Tensor) -> Statistics:
        """No rows yet."""
        return cls(dictionary.new_zeros(len(dictionary), len(dictionary)), torch.zeros_like(dictionary))

    def add(self, x: Tensor, codes: Tensor, window: float) -> None:
        """Add rows (n, D) and their codes (n, A); the sums forget what is more than about ``window`` rows ago."""
        keep = max(0.0, 1.0 - len(x) / window)
        self.codes = torch.addmm(self.codes, codes.mT, codes, beta=keep)
        self.data = torch.addmm(self.data, codes.mT, x, beta=keep)
        self.rows = keep * self.rows + len(x)


def normalised(atoms: Tensor) -> Tensor:
    """Atoms (A, ...) divided by their norms; those that are zero stay so."""
    norms = atoms.flatten(1).norm(dim=1).reshape(-1, *[1] * (atoms.dim() - 1))
    return atoms / torch.where(norms > 0.0, norms, 1.0)


def random_atoms(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Rows of the data, normalised, and noise where the data have too few: ``count`` atoms to start from."""
    chosen = x[torch.randperm(len(x), generator=generator)[:count]]
    noise = torch.randn(count, x.shape[1], generator=generator, dtype=x.dtype)
    scale = float(chosen.std()) if chosen.numel() > 1 else 1.0
    atoms = 0.01 * (scale or 1.0) * noise  # equal rows, and rows of zeros, become different atoms
    atoms[: len(chosen)] += chosen
    atoms[len(chosen) :] = noise[len(chosen) :]
    return normalised(atoms)


def updated(dictionary: Tensor, sums: Statistics, x: Tensor, generator: torch.Generator) -> Tensor:
    """The dictionary after one round over its atoms; those that no code uses become rows of ``x``."""
    dictionary = dictionary.clone()
    use = sums.codes.diagonal()
    unused = use <= _LEAST_USE * use.max().clamp_min(torch.finfo(use.dtype).tiny)
    for j in (~unused).nonzero()[:, 0].tolist():
        atom = dictionary[j] + (sums.data[j] - sums.codes[j] @ dictionary) / use[j]
        norm = atom.norm()
        if norm > 0.0:
            dictionary[j] = atom / norm
    count = int(unused.sum())
    if count > 0:
        dictionary[unused] = random_atoms(x, count, generator)
        sums.codes[unused] = 0.0
        sums.codes[:, unused] = 0.0
        sums.data[unused] = 0.0
    return dictionary
