"""Log importance weights log p(x, z) - log q(z|x), and the two bounds made of them.

Their mean is the ELBO (Kingma and Welling 2014), their log-mean-exp the importance-weighted bound L_K (Burda, Grosse
and Salakhutdinov 2016).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastvi import ops
from fastvi.objectives.draws import DrawingModel, draw, draw_from
from fastvi.objectives.latent import posterior_of, prior_of
from fastvi.objectives.model import LatentVariableModel, has_own_draw, terms_at_once
from fastvi.ops._one_node import Terms


def log_weights(
    model: LatentVariableModel | DrawingModel,
    x: Any,
    num_samples: int,
    *,
    detach_posterior: bool = False,
    seed: int | None = None,
    row_offset: int = 0,
) -> Tensor:
    """Log importance weights log p(x, z_k) - log q(z_k|x) of samples z_1 ... z_K of q(z|x).

    They are the ``log_weights`` of :func:`fastvi.objectives.draw`, which says what the arguments are and what is
    raised.

    Returns
    -------
    Tensor
        ``(K, B)``, in nats.

    Examples
    --------
    >>> import torch, types
    >>> from fastvi import normal_log_prob
    >>> from fastvi.objectives import elbo_bound, iwae_bound, log_weights
    >>> model = types.SimpleNamespace(
    ...     prior_mean=None, prior_logvar=None,
    ...     encode=lambda x: (x / 2, torch.zeros_like(x)),
    ...     log_likelihood=lambda x, z: normal_log_prob(x, z, torch.zeros_like(x)),
    ... )
    >>> found = log_weights(model, torch.ones(4, 2), num_samples=16, seed=0)
    >>> found.shape
    torch.Size([16, 4])
    >>> bool((iwae_bound(found) >= elbo_bound(found)).all())
    True
    """
    terms = Terms(num_samples, detach_posterior=detach_posterior, row_offset=row_offset)
    found: Tensor | None = terms_at_once(model, x, terms, seed)
    if found is not None:
        return found
    drawn = draw(model, x, num_samples, detach_posterior=detach_posterior, seed=seed, row_offset=row_offset)
    return drawn.log_weights


def weigher(model: LatentVariableModel | DrawingModel, x: Any) -> Callable[[int, int | None, int], Tensor]:
    """Return :func:`log_weights` of these examples as a function of ``num_samples``, ``seed`` and ``row_offset``.

    However often it is called, the encoder is run once. A model that draws for itself is asked each time.
    """
    if has_own_draw(model):
        return lambda num_samples, seed, row_offset: (
            draw(model, x, num_samples, seed=seed, row_offset=row_offset).log_weights
        )
    q = posterior_of(model, x)
    p = prior_of(model, x, q)
    return lambda num_samples, seed, row_offset: (
        draw_from(model, x, q, p, num_samples, seed=seed, row_offset=row_offset).log_weights
    )


def elbo_bound(log_weights: Tensor, dim: int = 0) -> Tensor:
    """Mean of the log-weights over ``dim``: the evidence lower bound, estimated with K samples.

    For ``log_weights`` of shape ``(K, B)`` and ``dim=0`` the result has the shape ``(B,)``. Source: Kingma and
    Welling 2014, equation 2.

    Examples
    --------
    >>> import torch
    >>> elbo_bound(torch.tensor([[-3.0], [-1.0]]))
    tensor([-2.])
    """
    return log_weights.mean(dim)


def iwae_bound(log_weights: Tensor, dim: int = 0) -> Tensor:
    """Log of the mean weight over ``dim``: the importance-weighted bound L_K, estimated once.

    For ``log_weights`` of shape ``(K, B)`` and ``dim=0`` the result has the shape ``(B,)``. Its gradient in the
    log-weights is the normalised weights. Source: Burda, Grosse and Salakhutdinov 2016, equation 8.

    Examples
    --------
    >>> import torch
    >>> iwae_bound(torch.tensor([[-2.0], [-2.0]]))
    tensor([-2.])
    """
    if _is_one_sample(log_weights, dim):
        return log_weights.sum(dim)  # the same number, by one cheap operator
    return ops.log_mean_exp(log_weights, dim)


def _is_one_sample(log_weights: object, dim: object) -> bool:
    """Whether there is one weight along ``dim``, and it is neither half precision, which autocast widens, nor wrong."""
    return (
        isinstance(log_weights, Tensor)
        and log_weights.dtype in (torch.float32, torch.float64)
        and type(dim) is int
        and -log_weights.dim() <= dim < log_weights.dim()
        and log_weights.shape[dim] == 1
    )
