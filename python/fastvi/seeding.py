"""Seeds of independent random streams, from one run seed and the counters that name the stream.

The mixing function is the finaliser of SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number
generators"), applied once per counter.
"""

from __future__ import annotations

from fastvi._sizes import check_integer

_MASK = (1 << 64) - 1
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def mix_seed(seed: int, *counters: int) -> int:
    """Return a seed in [0, 2**63) that depends on ``seed`` and on every counter, in their order.

    Two calls whose arguments differ anywhere give unrelated seeds, so the noise of a step may use
    ``mix_seed(seed, stream, step)`` and never meet that of another step or another run.

    Parameters
    ----------
    seed
        Any integer; taken modulo 2**64.
    *counters
        Integers that name the stream: a purpose, a step, a chunk.

    Raises
    ------
    TypeError
        If an argument is no integer.

    Examples
    --------
    >>> mix_seed(0, 1) != mix_seed(1, 0)
    True
    """
    state = check_integer("mix_seed", "seed", seed) & _MASK
    for place, counter in enumerate(counters):
        state = (_finalise(state) + (check_integer("mix_seed", f"counters[{place}]", counter) & _MASK)) & _MASK
    return _finalise(state) >> 1


def _finalise(value: int) -> int:
    value = (value + _GOLDEN_GAMMA) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
