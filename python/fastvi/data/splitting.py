"""Which rows test: spread evenly over all, so that data in any order are split alike each time."""

from __future__ import annotations

import torch
from torch import Tensor


def evenly_spaced(count: int, total: int) -> Tensor:
    """Return ``count`` indices spread evenly over ``range(total)``, in increasing order.

    Examples
    --------
    >>> evenly_spaced(3, 9).tolist()
    [0, 3, 6]
    """
    return torch.arange(count) * total // count
