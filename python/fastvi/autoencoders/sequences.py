"""Codes along a sequence: which frames are neighbours, how slow a code is, and how straight its path."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvi._sizes import shown

WINDOW = 3
"""Frames of a window: one and its two neighbours."""


def consecutive_frames(times: Tensor) -> Tensor:
    """Return which frames are three in a row, shape (W, 3): the indices of x at t - 1, t and t + 1 for each such t.

    Frames whose times differ by one are neighbours; where a time is missing, one sequence ends and another begins.

    Parameters
    ----------
    times
        Time of each frame, whole numbers of shape (N,), all different, in any order.

    Raises
    ------
    TypeError, ValueError
        If the times are not whole numbers of that shape, or two are the same.

    Examples
    --------
    >>> consecutive_frames(torch.tensor([0, 1, 2, 3, 7, 8, 9]))
    tensor([[0, 1, 2],
            [1, 2, 3],
            [4, 5, 6]])
    """
    order = _order(times)
    is_next = times[order].diff() == 1
    before = torch.nonzero(is_next[:-1] & is_next[1:])
    return order[before + torch.arange(WINDOW, device=times.device)]


def sequences(times: Tensor) -> list[Tensor]:
    """Return the frames of each sequence in the order of their times: indices, as `consecutive_frames` has them.

    Raises: see :func:`consecutive_frames`.

    Examples
    --------
    >>> sequences(torch.tensor([9, 0, 1, 2, 8]))
    [tensor([1, 2, 3]), tensor([4, 0])]
    """
    order = _order(times)
    ends = torch.nonzero(times[order].diff() != 1).flatten() + 1
    return [part for part in order.tensor_split(ends.cpu()) if len(part) > 0]


def windows(frames: Tensor, times: Tensor | None = None) -> Tensor:
    """Return each frame that has both neighbours between them: (W, 3, ...) for frames, or their codes, (N, ...).

    Parameters
    ----------
    frames
        Frames, one sequence in its order where there are no times.
    times
        See `consecutive_frames`.

    Raises
    ------
    TypeError, ValueError
        If ``frames`` is no tensor with an axis, or the times are not those of as many frames; see
        :func:`consecutive_frames`.

    Examples
    --------
    >>> windows(torch.arange(4.0))
    tensor([[0., 1., 2.],
            [1., 2., 3.]])
    """
    if not isinstance(frames, Tensor) or frames.dim() == 0:
        raise TypeError(f"windows: frames must be a tensor of shape (N, ...), got {shown(frames)}")
    if times is None:
        times = torch.arange(len(frames), device=frames.device)
    found = consecutive_frames(times)
    if len(times) != len(frames):
        raise ValueError(f"windows: times must be those of {len(frames)} frames, got {len(times)}")
    return frames[found]


def linearisation_error(z: Tensor) -> Tensor:
    r"""Return how far the path of a code is from a straight line of constant speed, (...), for windows (..., 3, Z).

    With the steps :math:`a = z_t - z_{t-1}` and :math:`b = z_{t+1} - z_t` it is

    .. math:: \frac{\|b - a\|^2}{\|a\|^2 + \|b\|^2}
        = \frac{4\, \| z_t - \tfrac12 (z_{t-1} + z_{t+1}) \|^2}{\|z_t - z_{t-1}\|^2 + \|z_{t+1} - z_t\|^2},

    the distance to the mean of the neighbours, relative to the distance of the neighbours: no smaller code has a
    smaller error. It lies in [0, 2]: 0 for a straight line, :math:`1 - \cos\theta` where a path of constant speed turns
    by :math:`\theta` at each step, 1 on average for a random walk, 1.5 and about that for codes without an order, 2
    where the code goes back. Where all three codes are the same it is 0.

    Raises
    ------
    TypeError, ValueError
        If z is no floating-point tensor of shape (..., 3, Z).

    References
    ----------
    Goroshin, Mathieu & LeCun 2015, "Learning to linearize under uncertainty", section 2, which has the cosine of the
    two steps.

    Examples
    --------
    >>> angles = 0.1 * torch.arange(5.0)
    >>> circle = torch.stack([angles.cos(), angles.sin()], -1)
    >>> torch.allclose(linearisation_error(windows(circle)), 1 - torch.tensor(0.1).cos(), rtol=1e-3)
    True
    """
    before, after = _steps("linearisation_error", z)
    total = before.square().sum(-1) + after.square().sum(-1)
    return (after - before).square().sum(-1) / total.clamp_min(torch.finfo(total.dtype).tiny)


def squared_step(z: Tensor) -> Tensor:
    r"""Return the mean squared distance of neighbours, :math:`\frac12 (\|a\|^2 + \|b\|^2)`, (...), for (..., 3, Z).

    The steps are those of `linearisation_error`. A code that shrinks has a smaller one; see `slowness`.

    Raises: see :func:`linearisation_error`.

    Examples
    --------
    >>> squared_step(torch.tensor([[0.0], [1.0], [4.0]]))
    tensor(5.)
    """
    return _squared_step("squared_step", z)


def slowness(z: Tensor) -> Tensor:
    r"""Return how fast a code changes, a number without axes, for windows (B, 3, Z): the smaller, the slower.

    It is the mean of `squared_step` over windows, divided by twice the variance of the code,
    :math:`\operatorname{mean} \|z - \bar z\|^2` over all frames of the windows. So no smaller code has a smaller
    slowness: it is 1 minus the correlation of neighbours, 1 for codes without an order and :math:`1 - \cos\theta`
    for a circle that is gone round by steps of the angle :math:`\theta`; 0 where all codes are the same.

    Raises: see :func:`linearisation_error`.

    References
    ----------
    Wiskott & Sejnowski 2002, "Slow feature analysis: unsupervised learning of invariances", section 2.1.

    Examples
    --------
    >>> slowness(windows(torch.tensor([[0.0], [1.0], [0.0], [1.0]])))
    tensor(2.)
    """
    step = _squared_step("slowness", z).mean()
    codes = z.reshape(-1, z.shape[-1])
    variance = (codes - codes.mean(0)).square().sum(-1).mean()
    return step / (2.0 * variance).clamp_min(torch.finfo(step.dtype).tiny)


def _squared_step(owner: str, z: Tensor) -> Tensor:
    before, after = _steps(owner, z)
    return 0.5 * (before.square().sum(-1) + after.square().sum(-1))


def _steps(owner: str, z: Tensor) -> tuple[Tensor, Tensor]:
    if not isinstance(z, Tensor) or not z.is_floating_point():
        raise TypeError(f"{owner}: z must be a floating-point tensor of shape (..., {WINDOW}, Z), got {shown(z)}")
    if z.dim() < 2 or z.shape[-2] != WINDOW:
        raise ValueError(f"{owner}: z must have the shape (..., {WINDOW}, Z), got {tuple(z.shape)}")
    return z[..., 1, :] - z[..., 0, :], z[..., 2, :] - z[..., 1, :]


def _kind(times: object) -> str:
    return f"one of {times.dtype}" if isinstance(times, Tensor) else shown(times)


def _order(times: Tensor) -> Tensor:
    if not isinstance(times, Tensor) or times.is_floating_point() or times.is_complex() or times.dtype is torch.bool:
        raise TypeError(f"times must be a tensor of whole numbers of shape (N,), got {_kind(times)}")
    if times.dim() != 1:
        raise ValueError(f"times must have the shape (N,), got {tuple(times.shape)}")
    order = times.argsort()
    if bool((times[order].diff() == 0).any()):
        raise ValueError("times must all be different, got the same twice")
    return order
