"""Approximate posteriors: what they make of an encoder's outputs.

Full covariance by its Cholesky factor; normalising flows: Rezende and Mohamed 2015; affine couplings: Dinh,
Sohl-Dickstein and Bengio 2017, "Density estimation using Real NVP".
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, TransformedDistribution

from fastvi.distributions import DiagNormal, ModuleTransform
from fastvi.nn import MLP


class DiagonalPosterior(nn.Module):
    """N(mean, diag(exp(logvar))): ``outputs`` are the two, ``(B, 2 Z)``.

    Examples
    --------
    >>> import torch
    >>> mean, logvar = DiagonalPosterior(3)(torch.zeros(5, 6))
    >>> mean.shape, logvar.shape
    (torch.Size([5, 3]), torch.Size([5, 3]))
    """

    has_analytic_kl: ClassVar[bool] = True
    has_independent_latents: ClassVar[bool] = True
    has_mean: ClassVar[bool] = True

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.num_outputs = 2 * latent_dim

    def forward(self, outputs: Tensor) -> Any:
        """Return what an ``encode`` returns: here the pair (mean, logvar)."""
        mean, logvar = outputs.chunk(2, -1)
        return mean, logvar


class FullCovariancePosterior(DiagonalPosterior):
    """N(mean, L L'): ``outputs`` are the mean, twice the log of L's diagonal, and the entries below it row by row.

    Examples
    --------
    >>> import torch
    >>> posterior = FullCovariancePosterior(3)
    >>> posterior(torch.zeros(5, posterior.num_outputs)).rsample().shape
    torch.Size([5, 3])
    """

    has_independent_latents = False

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.num_outputs = 2 * latent_dim + latent_dim * (latent_dim - 1) // 2

    def forward(self, outputs: Tensor) -> MultivariateNormal:
        """Return the distribution, with the batch ``(B,)``."""
        sizes = [self.latent_dim, self.latent_dim, self.num_outputs - 2 * self.latent_dim]
        mean, logvar, below = at_least_float32(outputs).split(sizes, -1)
        rows, columns = torch.tril_indices(self.latent_dim, self.latent_dim, -1, device=outputs.device)
        triangle = torch.diag_embed(torch.exp(0.5 * logvar))
        triangle = triangle.index_put((torch.arange(mean.shape[0], device=mean.device)[:, None], rows, columns), below)
        return MultivariateNormal(mean, scale_tril=triangle, validate_args=False)


class FlowPosterior(DiagonalPosterior):
    """A diagonal Gaussian through affine couplings: ``outputs`` are its mean and logvar, and what the couplings see.

    The couplings begin as the identity.

    Parameters
    ----------
    latent_dim
        Z, 2 at least: a coupling moves some variables by what the others are.
    num_layers
        Number of couplings.
    hidden_dim
        Width of the hidden layer of each coupling's perceptron.

    Raises
    ------
    ValueError
        If there is only one latent variable.

    Examples
    --------
    >>> import torch
    >>> posterior = FlowPosterior(3, num_layers=2, hidden_dim=8)
    >>> posterior(torch.zeros(5, posterior.num_outputs)).rsample().shape
    torch.Size([5, 3])
    """

    has_analytic_kl = False
    has_independent_latents = False
    has_mean = False

    def __init__(self, latent_dim: int, num_layers: int, hidden_dim: int) -> None:
        super().__init__(latent_dim)
        if latent_dim < 2:
            raise ValueError(f"FlowPosterior: latent_dim must be at least 2 for couplings, got {latent_dim}")
        self.num_outputs = 3 * latent_dim
        self.couplings = nn.ModuleList(
            AffineCoupling(latent_dim, latent_dim, hidden_dim, moves_first=layer % 2 == 1)
            for layer in range(num_layers)
        )

    def forward(self, outputs: Tensor) -> TransformedDistribution:
        """Return the distribution, with the batch ``(B,)``."""
        mean, logvar, context = at_least_float32(outputs).chunk(3, -1)
        transforms: list[Any] = [ModuleTransform(coupling, context) for coupling in self.couplings]
        return TransformedDistribution(DiagNormal(mean, logvar, False), transforms, validate_args=False)


class AffineCoupling(nn.Module):
    """One half of the variables is scaled and shifted by what a perceptron makes of the other half and a context.

    The log-scales are between -2 and 2. Called with x ``(N, D)`` and context ``(N, H)`` it returns y and
    log |det dy/dx|, ``(N, D)`` and ``(N,)``; ``inverse`` does the reverse.

    Examples
    --------
    >>> import torch
    >>> coupling, x, context = AffineCoupling(4, 2, 8, moves_first=False), torch.ones(5, 4), torch.zeros(5, 2)
    >>> y, log_abs_det = coupling(x, context)
    >>> torch.equal(y, x), log_abs_det.shape  # at the beginning
    (True, torch.Size([5]))
    """

    def __init__(self, dim: int, context_dim: int, hidden_dim: int, moves_first: bool) -> None:
        super().__init__()
        first = dim // 2
        self.sizes = (first, dim - first)
        self.moves_first = moves_first
        kept, moved = reversed(self.sizes) if moves_first else self.sizes
        self.perceptron = MLP((kept + context_dim, hidden_dim, 2 * moved), "tanh")
        last: Any = self.perceptron[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log |det dy/dx|."""
        kept, moved = self._split(x)
        log_scale, shift = self._affine(kept, context)
        return self._join(kept, torch.addcmul(shift, moved, torch.exp(log_scale))), log_scale.sum(-1)

    def inverse(self, y: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and log |det dx/dy|."""
        kept, moved = self._split(y)
        log_scale, shift = self._affine(kept, context)
        return self._join(kept, (moved - shift) * torch.exp(-log_scale)), -log_scale.sum(-1)

    def _affine(self, kept: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        outputs = at_least_float32(self.perceptron(torch.cat([kept, context], -1)))
        log_scale, shift = outputs.chunk(2, -1)
        return 2.0 * torch.tanh(0.5 * log_scale), shift

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.split(self.sizes, -1)
        return (second, first) if self.moves_first else (first, second)

    def _join(self, kept: Tensor, moved: Tensor) -> Tensor:
        return torch.cat([moved, kept] if self.moves_first else [kept, moved], -1)


def at_least_float32(outputs: Tensor) -> Tensor:
    """Outputs of layers that ran in half precision, in autocast, as float32, which densities need."""
    return outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs
