"""Draws that depend on (seed, sample, row, column) alone: what families make their samples of.

The first axis of the batch is that of the rows, so that rows 512 to 575 drawn with ``row_offset=512`` are what they are
in the whole batch. What takes several normal or uniform numbers, or tries again, gives each its own stream.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastvi import ops
from fastvi._sizes import MAX_SEED, check_seed
from fastvi.seeding import mix_seed

_ROUNDS = 1000
"""More than any draw of ours takes: at worst one try in three is refused."""


class Noise:
    """Streams of numbers of shape ``sample_shape + batch_shape``, all of one seed.

    Parameters
    ----------
    owner
        Name of the family, for messages.
    seed
        None takes a seed of PyTorch's generator.
    row_offset
        Number of the first row.
    sample_shape, batch_shape
        Shapes of the samples and of the parameters.
    like
        Where the numbers are to be.
    """

    def __init__(
        self,
        owner: str,
        seed: int | None,
        row_offset: int,
        sample_shape: Sequence[int],
        batch_shape: Sequence[int],
        like: Tensor,
    ) -> None:
        self.seed = int(torch.randint(MAX_SEED - 1, ())) if seed is None else check_seed(owner, seed, "an int or None")
        self.row_offset, self.like = row_offset, like
        self.sample_shape, self.batch_shape = tuple(sample_shape), tuple(batch_shape)
        self.shape = (*self.sample_shape, *self.batch_shape)

    def normal(self, stream: int, *event: int) -> Tensor:
        """Return float64 draws from N(0, 1), of shape ``sample_shape + batch_shape + event``."""
        batch = (*self.batch_shape, *event)
        rows = self.batch_shape[0] if self.batch_shape else 1
        columns = math.prod(batch) // rows if rows else 0
        # Samples stand beside each other in a row, because the generator makes four neighbours at once.
        samples = math.prod(self.sample_shape)
        zeros = self.like.new_zeros((), dtype=torch.float64).expand(rows, samples * columns)
        drawn = ops.rsample_normal(zeros, zeros, (), mix_seed(self.seed, stream), self.row_offset)
        return drawn.reshape(rows, samples, columns).movedim(0, 1).reshape(*self.sample_shape, *batch)

    def uniform(self, stream: int, *event: int) -> Tensor:
        """Return float64 draws between 0 and 1, neither of them, of the same shape."""
        limit = 1.0 - 0.5 * torch.finfo(torch.float64).eps
        uniform: Tensor = torch.special.ndtr(self.normal(stream, *event))
        return uniform.clamp_max(limit)

    def until_accepted(self, propose: Callable[[int], tuple[Tensor, Tensor]], streams: int) -> Tensor:
        """Return for each place the first proposal that is accepted; the numbers of a try have streams of their own.

        ``propose(stream)`` returns proposals and whether each is accepted; it may use ``streams`` streams, from this
        one on.
        """
        value, accepted = propose(0)
        for attempt in range(1, _ROUNDS):
            if bool(accepted.all()):
                break
            candidate, good = propose(attempt * streams)
            value = torch.where(accepted, value, candidate)
            accepted = accepted | good
        return value

    def choices(self, log_probabilities: Tensor) -> Tensor:
        """Return indices along the last axis, int64, of shape ``sample_shape + batch_shape``.

        Inverts the distribution function of ``log_probabilities``, ``batch_shape + (S,)``, up to a constant each.
        """
        cumulative = torch.softmax(log_probabilities.double(), -1).cumsum(-1)
        places = self.uniform(0).reshape(math.prod(self.sample_shape), *self.batch_shape).movedim(0, -1).contiguous()
        found = torch.searchsorted(cumulative.contiguous(), places * cumulative[..., -1:], right=True)
        limited = found.clamp_max(cumulative.shape[-1] - 1)
        return limited.movedim(-1, 0).reshape(self.shape)

    def log_gamma_variate(self, concentration: Tensor, stream: int = 0) -> Tensor:
        """Return the logarithm of draws from Gamma(concentration, 1) (Marsaglia and Tsang 2000).

        ``concentration`` is ``batch_shape + event``. In logarithms, because small concentrations give draws that are
        smaller than any float.
        """
        event = concentration.shape[len(self.batch_shape) :]
        shape = concentration.double()
        small = shape < 1.0
        d = torch.where(small, shape + 1.0, shape) - 1.0 / 3.0
        c = torch.rsqrt(9.0 * d)

        def propose(first: int) -> tuple[Tensor, Tensor]:
            normal, uniform = self.normal(stream + 1 + first, *event), self.uniform(stream + 2 + first, *event)
            root = 1.0 + c * normal
            positive = root > 0.0
            log_v = 3.0 * torch.where(positive, root, 1.0).log()
            accepted = positive & (uniform.log() < 0.5 * normal.square() + d - d * log_v.exp() + d * log_v)
            return d.log() + log_v, accepted

        boost = self.uniform(stream, *event).log() / shape
        return self.until_accepted(propose, 2) + torch.where(small, boost, 0.0)
