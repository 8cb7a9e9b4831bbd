"""Noise on the input of a denoising autoencoder: Gaussian, masking, and salt and pepper (Vincent et al. 2010)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvi._options import check_factor
from fastvi._sizes import check_integer, shown
from fastvi.ops.random import normal_noise, seed_tensor

CORRUPTIONS = ("gaussian", "masking", "salt-and-pepper")
"""The kinds of noise, by name."""


def check_corruption(owner: str, corruption: str, level: float, argument: str = "level") -> None:
    """Check the kind of a noise and its level, which messages call ``argument``.

    Raises
    ------
    TypeError, ValueError
        If there is no such noise, or the level is no finite number of 0 or more, above 1 where it is a probability.
    """
    if corruption not in CORRUPTIONS:
        raise ValueError(f"{owner}: corruption must be one of {', '.join(CORRUPTIONS)}, got {corruption!r}")
    check_factor(owner, argument, level)
    if corruption != "gaussian" and level > 1:
        raise ValueError(f"{owner}: {argument} must be a probability, at most 1, for {corruption}, got {level}")


def corrupt(x: Tensor, corruption: str, level: float, *, seed: int | None = None, row_offset: int = 0) -> Tensor:
    r"""Return x with noise.

    ``"gaussian"``: :math:`x + \sigma \epsilon` with ``level`` :math:`\sigma`. ``"masking"``: each value is 0 with the
    probability ``level``. ``"salt-and-pepper"``: with the probability ``level`` a value becomes 0 or 1, one as likely
    as the other.

    Noise is drawn by counter: that of a value depends on the seed and the place of its row and column alone.

    Parameters
    ----------
    x
        Data, shape (B, ...).
    corruption
        One of these names.
    level
        The noise's standard deviation, in the unit of x, or its probability.
    seed
        Determines the noise; None takes the seed from PyTorch's generator.
    row_offset
        Place of ``x[0]`` in the whole batch: a shard gets the noise that it would have got in the whole.

    Returns
    -------
    Tensor
        Of the shape of x. Gradients pass through the values that were kept.

    Raises
    ------
    TypeError, ValueError
        If x is no floating-point tensor with an axis of rows, or another argument is not as above.

    References
    ----------
    Vincent, Larochelle, Lajoie, Bengio & Manzagol 2010, "Stacked denoising autoencoders", section 3.3.

    Examples
    --------
    >>> x = torch.ones(4, 6)
    >>> masked = corrupt(x, "masking", 0.5, seed=0)
    >>> torch.equal(masked[2:], corrupt(x[2:], "masking", 0.5, seed=0, row_offset=2))
    True
    >>> sorted(set(masked.flatten().tolist()))
    [0.0, 1.0]
    """
    check_corruption("corrupt", corruption, level)
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() == 0:
        kind = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else shown(x)
        raise TypeError(f"corrupt: x must be a floating-point tensor of shape (B, ...), got {kind}")
    check_integer("corrupt", "row_offset", row_offset)
    rows = x.reshape(x.shape[0], -1)
    wide = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
    noise = normal_noise(seed_tensor("corrupt", seed, x.device), (), rows.shape, row_offset, wide)
    if corruption == "gaussian":
        return (wide + level * noise).to(x.dtype).reshape(x.shape)
    # A standard normal draw lies below its quantile of probability p with the probability p.
    share = level if corruption == "masking" else 0.5 * level
    quantile = torch.special.ndtri(torch.full((), float(share), dtype=torch.float64, device=x.device))
    corrupted = rows.masked_fill(noise < quantile, 0.0)
    if corruption == "salt-and-pepper":
        corrupted = corrupted.masked_fill(noise > -quantile, 1.0)
    return corrupted.reshape(x.shape)
