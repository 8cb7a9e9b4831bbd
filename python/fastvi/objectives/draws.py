"""Samples of q(z|x) with their log importance weights: the one thing that the estimators are built on.

A model with a Gaussian encoder gets them in one fused pass, one whose encoder gives another distribution by its rsample
(or sample) and log_prob. Any other one (several stochastic layers, trajectories) has a method ``draw`` of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from fastvi.objectives.latent import Posterior, Prior, posterior_of, prior_of, sample_with_log_ratio
from fastvi.objectives.model import (
    LatentVariableModel,
    describe,
    has_own_draw,
    log_likelihood,
    member,
    require_path,
)

Path: TypeAlias = Callable[[Tensor], Tensor]
"""What the samples of a layer pass on their way into the densities: the same values, or some of the K samples."""


class Draw(NamedTuple):
    """K samples of q(z|x) for each of B examples.

    Attributes
    ----------
    samples
        ``(K, B, ...)``, or one such tensor for each stochastic layer; with a ``path``, what that returned.
    log_weights
        ``(K, B)``, log p(x, z) - log q(z|x) in nats.
    log_posterior
        ``(K, B)``, log q of those samples that carry no gradient themselves, such as discrete ones: its gradient is the
        score. None where all samples are reparameterised.
    log_ratio
        ``(K, B)``, the part log p(z) - log q(z|x) of the log-weights, which the beta of
        :class:`fastvi.objectives.ELBO` weighs; None where the model does not tell it apart.
    """

    samples: Tensor | Sequence[Tensor]
    log_weights: Tensor
    log_posterior: Tensor | None = None
    log_ratio: Tensor | None = None


class DrawingModel(Protocol):
    """A model that draws and weighs its own samples; it needs neither ``encode`` nor ``log_likelihood``.

    Two rules make the path derivatives right where there are several stochastic layers:

    - With ``detach_posterior`` the parameters of q are constants inside log q, and nothing else is: in log q(z2|z1)
      the way through z1 stays open (:func:`fastvi.objectives.call_detached`).
    - A ``draw`` that takes one more argument, ``path=None``, serves :class:`fastvi.objectives.DReG` and
      :class:`fastvi.objectives.IWAE` with ``backward_samples`` too. Where ``path`` is a function, ``path(z)``, called
      once for each layer's samples, takes their place in all densities (in the parameters of log q(z2|z1) and
      log p(z1|z2) as well) and in ``Draw.samples``; the next layer is sampled from z itself. It may return fewer
      samples than it was given.

    A model whose draws have a ``log_ratio`` says so by an attribute ``draws_log_ratio = True``, and one whose draws
    never have a ``log_posterior`` by ``draws_score = False``: estimators of the score refuse it before a run begins.
    """

    def draw(
        self,
        x: Any,
        num_samples: int,
        *,
        detach_posterior: bool = False,
        seed: int | None = None,
        row_offset: int = 0,
    ) -> Draw:
        """Draw ``num_samples`` samples for each example; the arguments are those of :func:`fastvi.objectives.draw`."""
        ...


def draw(
    model: LatentVariableModel | DrawingModel,
    x: Any,
    num_samples: int,
    *,
    detach_posterior: bool = False,
    score: bool = False,
    seed: int | None = None,
    row_offset: int = 0,
    path: Path | None = None,
) -> Draw:
    """Draw samples z_1 ... z_K of q(z|x) for each example, and weigh them.

    By ``model.draw`` where the model has it; else by ``encode``, ``log_likelihood`` and the prior: samples and
    densities of Gaussians in one pass of :func:`fastvi.rsample_normal_with_log_ratio`, those of any other posterior by
    its ``rsample`` and ``log_prob``. Without ``rsample``, as of Bernoulli variables, the samples are constants.

    Parameters
    ----------
    model
        What draws.
    x
        Data, ``(B, ...)``: whatever the model takes.
    num_samples
        K.
    detach_posterior
        Take the parameters of q for constants inside log q(z|x), so that its gradient flows along the sampled path
        alone (Roeder, Wu and Duvenaud 2017).
    score
        Ask for ``log_posterior``. The samples of an ``encode`` are constants then, and all gradients those at fixed
        samples.
    seed
        Determines the samples; None takes the seed from PyTorch's generator.
    row_offset
        Position of ``x[0]`` in the whole batch, so that a shard draws what it would have drawn in the whole.
    path
        A function that each layer's samples ``(K, B, ...)`` pass on their way into the densities, and on no other way:
        it may act on their gradient, or choose some of the samples for each example. A model's own ``draw`` must have
        the argument.

    Raises
    ------
    ValueError, TypeError
        Where the model lacks a method, or one returns something else than it should: the message names it.

    Examples
    --------
    >>> import torch, types
    >>> from fastvi import normal_log_prob
    >>> model = types.SimpleNamespace(
    ...     encode=lambda x: (x / 2, torch.zeros_like(x)),
    ...     log_likelihood=lambda x, z: normal_log_prob(x, z, torch.zeros_like(x)),
    ... )
    >>> drawn = draw(model, torch.ones(4, 2), num_samples=16, seed=0)
    >>> drawn.samples.shape, drawn.log_weights.shape, drawn.log_posterior
    (torch.Size([16, 4, 2]), torch.Size([16, 4]), None)
    """
    if has_own_draw(model):
        return _own_draw(model, x, num_samples, detach_posterior, score, seed, row_offset, path)
    q = posterior_of(model, x)
    p = prior_of(model, x, q)
    return draw_from(model, x, q, p, num_samples, detach_posterior, score, seed, row_offset, path)


def draw_from(
    model: Any,
    x: Any,
    q: Posterior,
    p: Prior,
    num_samples: int,
    detach_posterior: bool = False,
    score: bool = False,
    seed: int | None = None,
    row_offset: int = 0,
    path: Path | None = None,
) -> Draw:
    """Draw from the posterior and the prior that `draw` has asked the model for: see there."""
    has_score = score or not q.is_reparameterised
    if has_score or path is not None:
        z = q.rsample(num_samples, seed, row_offset)
        z = z.detach() if has_score else z
        z = z if path is None else path(z)
        log_posterior = q.log_prob_along_path(z) if detach_posterior and not has_score else q.log_prob(z)
        log_joint = log_likelihood(model, x, z) + p.log_prob(z)
        subtracted = log_posterior.detach() if detach_posterior and has_score else log_posterior
        return Draw(z, log_joint - subtracted, log_posterior if has_score else None)
    z, log_ratio = sample_with_log_ratio(
        q, p, num_samples, detach_posterior=detach_posterior, seed=seed, row_offset=row_offset
    )
    return Draw(z, log_likelihood(model, x, z) + log_ratio)


def _own_draw(
    model: Any,
    x: Any,
    num_samples: int,
    detach_posterior: bool,
    score: bool,
    seed: int | None,
    row_offset: int,
    path: Path | None,
) -> Draw:
    """What ``model.draw`` returns, checked as what ``encode`` and ``log_likelihood`` return is."""
    place = member(model, "draw")
    options: dict[str, Any] = {"detach_posterior": detach_posterior, "seed": seed, "row_offset": row_offset}
    came: list[Tensor] = []
    passed: list[Tensor] = []
    if path is not None:

        def recorded(z: Tensor) -> Tensor:
            if not torch.compiler.is_compiling() and _is_made_of(z, passed, came):
                raise ValueError(
                    f"{place}: expected each layer to be sampled from the samples of the layer before, got samples of "
                    f"shape {tuple(z.shape)} that were made of what path returned, which is for densities alone"
                )
            came.append(z)
            passed.append(path(z))
            return passed[-1]

        require_path(model, "draw with a path")
        options["path"] = recorded
    drawn: Any = model.draw(x, num_samples, **options)
    if not isinstance(drawn, Draw):
        raise TypeError(f"{place}: expected a fastvi.objectives.Draw, got {describe(drawn)}")
    if passed:
        num_samples = passed[0].shape[0]
    batch = x.shape[0] if isinstance(x, Tensor) and x.dim() > 0 else None
    named: list[tuple[str, Any]] = [("log_weights", drawn.log_weights)]
    optional = (("log_posterior", drawn.log_posterior), ("log_ratio", drawn.log_ratio))
    named += [(name, value) for name, value in optional if value is not None]
    expected = f"(num_samples, batch) = ({num_samples}, {'batch' if batch is None else batch})"
    for name, value in named:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else describe(value)
            raise TypeError(f"{place}: expected {name} of floating-point nats, got {kind}")
        if value.dim() != 2 or value.shape[0] != num_samples or (batch is not None and value.shape[1] != batch):
            raise ValueError(f"{place}: expected {name} of the shape {expected}, got {tuple(value.shape)}")
        if value.shape != drawn.log_weights.shape:
            raise ValueError(
                f"{place}: expected {name} of the shape of log_weights, {tuple(drawn.log_weights.shape)}, "
                f"got {tuple(value.shape)}"
            )
    layers: Any = (drawn.samples,) if isinstance(drawn.samples, Tensor) else drawn.samples
    if not isinstance(layers, tuple | list) or not layers or not all(isinstance(layer, Tensor) for layer in layers):
        raise TypeError(f"{place}: expected samples to be a tensor, or one for each layer, got {describe(layers)}")
    for layer in layers:
        if layer.shape[:2] != drawn.log_weights.shape:
            raise ValueError(f"{place}: expected samples of the shape {expected} and more, got {tuple(layer.shape)}")
        if path is not None and not any(layer is other for other in passed):
            raise ValueError(
                f"{place}: expected samples to be what path returned for each layer, got a tensor of shape "
                f"{tuple(layer.shape)} that it did not return"
            )
    if score and drawn.log_posterior is None:
        raise ValueError(f"{place}: the estimator needs the score, and the draw has no log_posterior")
    return drawn


def _is_made_of(z: Tensor, passed: Sequence[Tensor], came: Sequence[Tensor]) -> bool:
    """Whether the graph of z, down to the samples that ``came`` before, holds one of those that ``path`` returned."""
    wrong: set[Any] = {after.grad_fn for after, before in zip(passed, came, strict=True) if after is not before}
    seen: set[Any] = {None, *(before.grad_fn for before in came)}
    waiting: list[Any] = [z.grad_fn] if wrong - {None} else []
    while waiting:
        node = waiting.pop()
        if node is not None and node in wrong:
            return True
        if node not in seen:
            seen.add(node)
            waiting.extend(following for following, _ in node.next_functions)
    return False
