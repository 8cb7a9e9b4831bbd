"""What a run measures: the names of the providers, the timings of each, and what is read from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

EAGER = "eager"
COMPILE = "torch.compile"
FASTVI = "fastvi"
FASTVI_COMPILE = "fastvi+compile"
JAX = "JAX"
BLACKJAX = "BlackJAX"
SCIKIT_LEARN = "scikit-learn"
POINT_LOOP = "loop over points"
GEMMS = "GEMMs alone"
FLOOR = "floor"


def in_graph(provider: str) -> str:
    """Name of the provider that replays another one's call as a CUDA graph."""
    return f"{provider}, graph"


_CALLED = (EAGER, COMPILE, FASTVI, FASTVI_COMPILE, JAX, BLACKJAX, SCIKIT_LEARN, POINT_LOOP, GEMMS, FLOOR)
_COMPARED = (
    (EAGER, FASTVI),
    (COMPILE, FASTVI),
    (JAX, FASTVI),
    (BLACKJAX, FASTVI),
    (SCIKIT_LEARN, FASTVI),
    (POINT_LOOP, FASTVI),
    (EAGER, FASTVI_COMPILE),
    (COMPILE, FASTVI_COMPILE),
    (FASTVI, GEMMS),
    (FASTVI, FLOOR),
)
PROVIDERS = (*_CALLED, *map(in_graph, _CALLED))
RATIOS = (*_COMPARED, *((in_graph(baseline), in_graph(provider)) for baseline, provider in _COMPARED))

Statistic = Literal["median", "best"]


@dataclass(frozen=True)
class Timing:
    """Seconds per call of one provider over the repeats, and the bytes that one call allocates at its peak.

    ``peak_bytes`` is None where the memory is not PyTorch's.
    """

    median: float
    best: float
    lower_quartile: float
    upper_quartile: float
    calls_per_block: int
    peak_bytes: int | None

    @property
    def spread(self) -> float:
        """How much longer the median block took than the best one, as a fraction of the best."""
        return (self.median - self.best) / self.best


@dataclass(frozen=True)
class Sampling:
    """What a call of one provider draws, where it draws Markov chains.

    Attributes
    ----------
    effective_draws
        Of the first or second moment that has the fewest, in a call; from the mean of several runs.
    gradients
        Gradients of the log density in a call, those of all chains.
    spread
        Standard deviation of effective draws per gradient over the runs, as a fraction of the mean.
    """

    effective_draws: float
    gradients: float
    spread: float

    @property
    def per_gradient(self) -> float:
        """Effective draws for each gradient."""
        return self.effective_draws / self.gradients


def largest_spread(timings: Mapping[str, Timing]) -> float:
    """Return the largest spread of the providers."""
    return max(timing.spread for timing in timings.values())


@dataclass(frozen=True)
class Result:
    """All providers of one case, mode and thread count; ``copy_bandwidth`` is in bytes per second.

    ``attempts`` counts how often the case was timed until its spread was small, or the attempts were used up;
    ``sampling`` is empty where no chains are drawn.
    """

    family: str
    case: str
    mode: str
    threads: int
    bytes_moved: int | None
    copy_bandwidth: float
    timings: dict[str, Timing]
    attempts: int = 1
    sampling: dict[str, Sampling] = field(default_factory=dict)

    def ratio(self, baseline: str, provider: str, statistic: Statistic = "median") -> float | None:
        """How many times faster than ``baseline`` the provider is; None where one of them did not run."""
        if baseline not in self.timings or provider not in self.timings:
            return None
        first, second = self.timings[baseline], self.timings[provider]
        return first.median / second.median if statistic == "median" else first.best / second.best

    def effective_draws_per_second(self, provider: str) -> float | None:
        """Effective draws for each second of the median; None where the provider drew no chains, or did not run."""
        if provider not in self.sampling or provider not in self.timings:
            return None
        return self.sampling[provider].effective_draws / self.timings[provider].median

    def bandwidth_fraction(self, provider: str) -> float | None:
        """Bytes that must move per second of the provider, as a fraction of the copy bandwidth."""
        if self.bytes_moved is None or provider not in self.timings:
            return None
        return self.bytes_moved / self.timings[provider].median / self.copy_bandwidth
