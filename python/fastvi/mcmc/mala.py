"""The Metropolis-adjusted Langevin algorithm (Roberts and Tweedie 1996): HMC whose trajectory is one leapfrog step."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastvi.mcmc.hmc import HMC


@dataclass(frozen=True, eq=False)
class MALA(HMC):
    r"""Langevin proposals with Metropolis's rule: one leapfrog step from a momentum that is drawn anew.

    With :math:`\tau = \epsilon^2 / 2` the proposal is
    :math:`q + \tau M^{-1} \nabla \log p(q) + \sqrt{2 \tau} M^{-1/2} \xi`, and the energy error of that leapfrog step
    is minus the logarithm of the Metropolis-Hastings ratio (Neal 2011, section 5.2). So this is :class:`HMC` in all but
    its number of steps, and takes the other parameters of it.

    References
    ----------
    Roberts, Tweedie: Exponential convergence of Langevin distributions and their discrete approximations. Bernoulli
    1996.

    Examples
    --------
    >>> import torch
    >>> from fastvi.mcmc import as_target
    >>> kernel = MALA(as_target(lambda q: -0.5 * q.square().sum(-1)), step_size=0.5)
    >>> state, info = kernel.step(kernel.init(torch.zeros(8, 2)), seed=0)
    >>> info.num_steps
    1
    """

    num_steps: int = field(default=1, init=False, repr=False)
    integrator: str = field(default="leapfrog", init=False, repr=False)
