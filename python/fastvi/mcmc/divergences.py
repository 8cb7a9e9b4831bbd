"""Divergent trajectories explained: how many, of which chains, from which region, and what to try; chains that stay."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastvi.mcmc.kernel import name_chains

_STANDS_OUT = 0.25
"""How far from 1/2 the mean rank has to be of the places where divergent trajectories start, at most 1/2."""


def explain_divergences(is_divergent: Tensor, positions: Tensor, names: Sequence[str] | None = None) -> str:
    """Say in a few lines which chains' trajectories diverged, where they began, and what to try.

    A trajectory diverges where the integrator is unstable: where the density is much narrower than elsewhere, as in the
    neck of a funnel. Chains do not enter such a region, and averages over them leave it out.

    Parameters
    ----------
    is_divergent
        ``(T, C)``, bool, of T steps: each of them from :class:`fastvi.mcmc.StepInfo`.
    positions
        ``(T, C, D)``: where each step ended, which is where a divergent trajectory began.
    names
        Of the coordinates; ``position[0]``, ... where not given.

    Returns
    -------
    str
        Empty where no trajectory diverged.

    Raises
    ------
    ValueError
        If shapes do not fit.

    References
    ----------
    Betancourt: A conceptual introduction to Hamiltonian Monte Carlo. arXiv 1701.02434, section 6.2.

    Examples
    --------
    >>> import torch
    >>> positions = torch.linspace(-1.0, 1.0, 100).reshape(25, 4, 1)
    >>> print(explain_divergences(positions.squeeze(-1) < -0.75, positions, ["log_scale"]))
    13 of 100 trajectories diverged (13 %), of chains 0, 1, 2, 3; most of chain 0 (4).
    They began where log_scale is low (median -0.879, of all positions -0.0101).
    Their region is narrower than the step size, and draws leave it out: try a higher target acceptance such as ...
    """
    if is_divergent.dim() != 2 or positions.dim() != 3 or positions.shape[:2] != is_divergent.shape:
        raise ValueError(
            f"explain_divergences: is_divergent must have the shape (T, C) and positions (T, C, D), got "
            f"{tuple(is_divergent.shape)} and {tuple(positions.shape)}"
        )
    by_chain = is_divergent.sum(0)
    count = int(by_chain.sum())
    if count == 0:
        return ""
    most = int(by_chain.argmax())
    lines = [
        f"{count} of {is_divergent.numel()} trajectories diverged ({_per_cent(count / is_divergent.numel())}), of "
        f"{name_chains(by_chain.nonzero().flatten().tolist())}; most of chain {most} ({int(by_chain[most])})."
    ]
    regions = _regions(is_divergent.flatten(), positions.flatten(0, 1), names)
    lines.append(f"They began where {' and '.join(regions)}." if regions else "They began in no particular region.")
    lines.append(
        "Their region is narrower than the step size, and draws leave it out: try a higher target acceptance such as "
        "0.95, another parametrisation (non-centred where one parameter is the scale of others), or a tighter prior."
    )
    if 2 * count > is_divergent.numel():
        lines[-1] += (
            " Where most of them diverge a parameter may have crossed a bound of its support: give those with bounds a "
            "bijection such as Positive()."
        )
    return "\n".join(lines)


def _per_cent(share: float) -> str:
    return f"{100.0 * share:.0f} %" if share >= 0.1 else f"{100.0 * share:.2g} %"


def _regions(is_divergent: Tensor, positions: Tensor, names: Sequence[str] | None) -> list[str]:
    """The two coordinates at most whose ranks among all positions (N, D) are the least like those of any N."""
    diverged = positions[is_divergent]
    ordered = positions.sort(0).values.t().contiguous()
    lower, upper = (torch.searchsorted(ordered, diverged.t().contiguous(), right=side) for side in (False, True))
    mean_rank = 0.5 * (lower + upper).double().mean(1) / len(positions)
    found = []
    for place in (mean_rank - 0.5).abs().argsort(descending=True)[:2].tolist():
        if abs(mean_rank[place].item() - 0.5) < _STANDS_OUT:
            break
        name = f"position[{place}]" if names is None else names[place]
        size = "low" if mean_rank[place] < 0.5 else "high"
        here, anywhere = diverged[:, place].median().item(), positions[:, place].median().item()
        found.append(f"{name} is {size} (median {here:.3g}, of all positions {anywhere:.3g})")
    return found


def explain_stillness(is_accepted: Tensor) -> str:
    """Say in a line which chains accepted no proposal at all, and what to try; nothing where all of them moved.

    Parameters
    ----------
    is_accepted
        ``(T, C)``, bool, of T steps: each of them from :class:`fastvi.mcmc.StepInfo`.

    Examples
    --------
    >>> import torch
    >>> explain_stillness(torch.tensor([[True, False], [False, False]]))
    'chain 1 accepted none of 2 proposals and is where it started: try another start, a smaller step size, ...
    """
    still = (~is_accepted.any(0)).nonzero().flatten().tolist()
    if not still or len(is_accepted) == 0:
        return ""
    several = len(still) > 1
    return (
        f"{name_chains(still)} accepted none of {len(is_accepted)} proposals and {'are' if several else 'is'} where "
        f"{'they' if several else 'it'} started: try another start, a smaller step size, a step size for each chain, "
        f"or a longer warm-up"
    )
