"""What a reconstruction tells of the data's geometry: a distance to the learned manifold, and a score field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from fastvi._options import check_factor
from fastvi._sizes import shown


class Reconstructing(Protocol):
    """A model with a reconstruction, such as those of this package."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the reconstruction, (B, D), of x (B, D)."""
        ...


def reconstruction_distance(model: Reconstructing | Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    r"""Return :math:`\|x - r(x)\|`, the distance of each example to its reconstruction, (B,).

    Its gradient is 0 where r(x) = x.

    A trained autoencoder reconstructs what lies near its data, so that this approximates the distance to a manifold
    that covers them, and the set :math:`\Omega(\varepsilon) = \{x : \|x - r(x)\| \le \varepsilon\}` is a tube round it.
    For a linear autoencoder that has found the principal components it is the distance to their plane.

    Parameters
    ----------
    model
        What reconstructs: a model with ``reconstruct(x)``, or a function of x.
    x
        Data, (B, D).

    Raises
    ------
    TypeError, ValueError
        If there is nothing that reconstructs, x is no floating-point tensor (B, D), or the reconstruction has another
        shape.

    References
    ----------
    The lecture's "Auto encoders: geometric interpretation"; Alain & Bengio 2014, "What regularized auto-encoders learn
    from the data generating distribution".

    Examples
    --------
    >>> import torch
    >>> reconstruction_distance(lambda x: x * torch.tensor([1.0, 0.0]), torch.tensor([[5.0, 2.0], [1.0, 0.0]]))
    tensor([2., 0.])
    """
    difference = _reconstructed("reconstruction_distance", model, x) - x
    distance: Tensor = torch.linalg.vector_norm(difference, dim=-1)  # whose gradient is 0 at 0
    return distance


def denoising_score(model: Reconstructing | Callable[[Tensor], Tensor], x: Tensor, noise_scale: float) -> Tensor:
    r"""Return :math:`(r(x) - x) / \sigma^2`, (B, D): the estimate of the score that a denoising autoencoder is.

    The best reconstruction of the data from data with Gaussian noise, by the squared error, is their conditional mean,
    and for it this is exactly :math:`\nabla_x \log p_\sigma(x)`, where :math:`p_\sigma` is the density of the data with
    the noise.

    Parameters
    ----------
    model, x
        See `reconstruction_distance`.
    noise_scale
        :math:`\sigma`, the standard deviation of the noise of training.

    Raises
    ------
    TypeError, ValueError
        If ``noise_scale`` is no positive finite number; see :func:`reconstruction_distance`.

    References
    ----------
    Vincent 2011, "A connection between score matching and denoising autoencoders", equation 11; Alain & Bengio 2014,
    theorem 1; Robbins 1956, the formula of Tweedie.

    Examples
    --------
    >>> import torch
    >>> variance, noise_scale = 4.0, 0.5  # of N(0, 4), and of the noise
    >>> best = lambda x: x * variance / (variance + noise_scale**2)
    >>> x = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    >>> torch.allclose(denoising_score(best, x, noise_scale), -x / (variance + noise_scale**2))
    True
    """
    if check_factor("denoising_score", "noise_scale", noise_scale) == 0:
        raise ValueError("denoising_score: noise_scale must be positive, got 0")
    return (_reconstructed("denoising_score", model, x) - x) / noise_scale**2


def _reconstructed(owner: str, model: Reconstructing | Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    reconstruct = getattr(model, "reconstruct", model)
    if not callable(reconstruct):
        raise TypeError(f"{owner}: model must have reconstruct(x), or be a function of x, got {shown(model)}")
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() != 2:
        raise TypeError(f"{owner}: x must be a floating-point tensor of shape (B, D), got {shown(x)}")
    found: Tensor = reconstruct(x)
    if found.shape != x.shape:
        raise ValueError(f"{owner}: the reconstruction must have the shape {tuple(x.shape)}, got {tuple(found.shape)}")
    return found
