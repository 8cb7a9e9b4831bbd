"""One harness for every benchmark: providers of one computation are checked, then timed turn by turn in one process.

Timed blocks of the providers alternate in a random order, so that a slow moment of the machine hits all of them, and
the median over the repeats is reported. See ``docs/benchmarks.md`` for what each number means.
"""

from __future__ import annotations

import gc
import importlib
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from fastvi.benchmarks.timers import Call, CpuTimer, CudaTimer, Timer, captured

FORWARD = "forward"
FORWARD_BACKWARD = "forward+backward"
EAGER = "eager"
COMPILE = "torch.compile"
FASTVI = "fastvi"
FASTVI_COMPILE = "fastvi+compile"
GEMMS = "GEMMs alone"


def in_graph(provider: str) -> str:
    """Name of the provider that replays another one's call as a CUDA graph."""
    return f"{provider}, graph"


_CALLED = (EAGER, COMPILE, FASTVI, FASTVI_COMPILE, GEMMS)
_COMPARED = ((EAGER, FASTVI), (COMPILE, FASTVI), (EAGER, FASTVI_COMPILE), (COMPILE, FASTVI_COMPILE))
PROVIDERS = (*_CALLED, *map(in_graph, _CALLED))
RATIOS = (*_COMPARED, *((in_graph(baseline), in_graph(provider)) for baseline, provider in _COMPARED))
COPY_BYTES = 256 * 2**20
SEED = 20150901


@dataclass(frozen=True)
class Settings:
    """How to measure: where, thread counts, timed blocks per provider, length of a block, torch.compile or not."""

    device: str = "cpu"
    threads: tuple[int, ...] = (1, 2)
    repeats: int = 7
    block_seconds: float = 0.03
    with_compile: bool = True


@dataclass(frozen=True)
class Workload:
    """What a case prepares: one call per provider, the check that they agree, the bytes that one call has to move."""

    calls: dict[str, Call]
    check: Callable[[], None]
    bytes_moved: int | None = None


@dataclass(frozen=True)
class Case:
    """One row of the benchmark; ``prepare(mode, with_compile)`` makes its workload, on PyTorch's default device."""

    family: str
    name: str
    modes: tuple[str, ...]
    prepare: Callable[[str, bool], Workload]


@dataclass(frozen=True)
class Timing:
    """Seconds per call of one provider over the repeats, and the bytes that one call allocates at its peak."""

    median: float
    lower_quartile: float
    upper_quartile: float
    calls_per_block: int
    peak_bytes: int


@dataclass(frozen=True)
class Result:
    """All providers of one case, mode and thread count; ``copy_bandwidth`` is in bytes per second."""

    family: str
    case: str
    mode: str
    threads: int
    bytes_moved: int | None
    copy_bandwidth: float
    timings: dict[str, Timing]

    def ratio(self, baseline: str, provider: str) -> float | None:
        """How many times faster than ``baseline`` the provider is; None where one of them did not run."""
        if baseline not in self.timings or provider not in self.timings:
            return None
        return self.timings[baseline].median / self.timings[provider].median

    def bandwidth_fraction(self, provider: str) -> float | None:
        """Bytes that must move per second of the provider, as a fraction of the copy bandwidth."""
        if self.bytes_moved is None or provider not in self.timings:
            return None
        return self.bytes_moved / self.timings[provider].median / self.copy_bandwidth


def load_cases(family: str) -> list[Case]:
    """Return the cases of one family: ``fastvi.benchmarks.<family>.CASES``."""
    cases: list[Case] = importlib.import_module(f"fastvi.benchmarks.{family}").CASES
    return cases


def run(
    cases: Sequence[Case],
    settings: Settings,
    timer: Timer | None = None,
    track: Callable[[Sequence[Case]], Iterable[Case]] = iter,
) -> list[Result]:
    """Check and time every mode of every case with every number of threads."""
    timer = timer or (CudaTimer.of_current_device() if settings.device == "cuda" else CpuTimer())
    threads_before = torch.get_num_threads()
    results = []
    try:
        bandwidth = {}
        for threads in settings.threads:
            torch.set_num_threads(threads)
            bandwidth[threads] = copy_bandwidth(timer, settings)
        for case in track(cases):
            for mode in case.modes:
                for threads in settings.threads:
                    torch.set_num_threads(threads)
                    if settings.with_compile:  # each workload compiles its own functions, for this thread count
                        torch.compiler.reset()
                    torch.manual_seed(SEED)
                    with torch.device(settings.device):
                        workload = case.prepare(mode, settings.with_compile)
                    workload.check()
                    calls = workload.calls
                    if settings.device == "cuda":
                        calls = calls | replays(calls)
                    timings = measure(calls, settings, timer)
                    results.append(
                        Result(case.family, case.name, mode, threads, workload.bytes_moved, bandwidth[threads], timings)
                    )
    finally:
        torch.set_num_threads(threads_before)
    return results


def replays(calls: dict[str, Call]) -> dict[str, Call]:
    """The calls as CUDA graphs, under names of their own; without those that cannot be captured."""
    found = {in_graph(name): captured(call) for name, call in calls.items()}
    return {name: replay for name, replay in found.items() if replay is not None}


def measure(calls: dict[str, Call], settings: Settings, timer: Timer) -> dict[str, Timing]:
    """Time the calls turn by turn; each repeat runs one block of every provider, in a new random order."""
    counts = {name: _calls_per_block(call, settings.block_seconds, timer) for name, call in calls.items()}
    peaks = {name: timer.peak_bytes(call) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    shuffle = random.Random(SEED).shuffle
    gc.collect()
    gc.disable()  # a collection inside one provider's block would be charged to it alone
    try:
        for _ in range(settings.repeats):
            shuffle(order)
            for name in order:
                seconds[name].append(timer.seconds(calls[name], counts[name]))
    finally:
        gc.enable()
    timings = {}
    for name, values in seconds.items():
        lower, median, upper = _quartiles(values)
        timings[name] = Timing(median, lower, upper, counts[name], peaks[name])
    return timings


def _calls_per_block(call: Call, block_seconds: float, timer: Timer) -> int:
    for _ in range(3):  # compilation, caches and the allocator settle
        call()
    count = 1
    while (seconds := timer.seconds(call, count)) * count < block_seconds / 4:
        count *= 4
    return max(1, round(block_seconds / seconds))


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, median, upper


def copy_bandwidth(timer: Timer, settings: Settings, nbytes: int = COPY_BYTES) -> float:
    """Bytes per second, read and written, while ``copy_`` copies an array of ``nbytes``: median over the repeats."""
    source = torch.ones(nbytes // 4, device=settings.device)
    target = torch.zeros_like(source)
    seconds = [timer.seconds(lambda: target.copy_(source), 1) for _ in range(settings.repeats)]
    return 2 * nbytes / statistics.median(seconds)
