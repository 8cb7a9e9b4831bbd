"""Log importance weights log p(x, z) - log q(z|x), and the two bounds made of them.

Their mean is the ELBO (Kingma and Welling 2014), their log-mean-exp the importance-weighted bound L_K (Burda, Grosse
and Salakhutdinov 2016).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastvi import ops
from fastvi.objectives.model import LatentVariableModel, log_likelihood, posterior, prior


def log_weights(
    model: LatentVariableModel,
    x: Any,
    num_samples: int,
    *,
    detach_posterior: bool = False,
    seed: int | None = None,
    row_offset: int = 0,
) -> Tensor:
    """Log importance weights log p(x, z_k) - log q(z_k|x) of samples z_1 ... z_K of q(z|x).

    Samples, prior and posterior densities come out of one pass of ``fastvi.rsample_normal_with_log_ratio``.

    Parameters
    ----------
    model
        Encoder, likelihood and prior.
    x
        Data, ``(B, ...)``: whatever the model takes.
    num_samples
        K.
    detach_posterior
        Take the parameters of q for constants inside log q(z|x), so that its gradient flows along the sampled path
        alone (Roeder, Wu and Duvenaud 2017).
    seed
        Determines the samples; None takes the seed from PyTorch's generator.
    row_offset
        Position of ``x[0]`` in the whole batch, so that a shard draws what it would have drawn in the whole.

    Returns
    -------
    Tensor
        ``(K, B)``, in nats.

    Raises
    ------
    ValueError, TypeError
        Where ``model.encode`` does not return a pair of tensors of one shape (B, Z), the prior does not fit them, or
        ``model.log_likelihood`` does not return ``(K, B)``.

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
    >>> log_w = log_weights(model, torch.ones(4, 2), num_samples=16, seed=0)
    >>> log_w.shape
    torch.Size([16, 4])
    >>> bool((iwae_bound(log_w) >= elbo_bound(log_w)).all())
    True
    """
    mean, logvar = posterior(model, x)
    z, log_ratio = ops.rsample_normal_with_log_ratio(
        mean,
        logvar,
        num_samples,
        *prior(model, mean),
        detach_posterior=detach_posterior,
        seed=seed,
        row_offset=row_offset,
    )
    return log_likelihood(model, x, z) + log_ratio


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
    return ops.log_mean_exp(log_weights, dim)
