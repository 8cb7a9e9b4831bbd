"""One harness for every benchmark: providers of one computation are checked, then timed turn by turn in one process.

Timed blocks of the providers alternate in a random order, so that a slow moment of the machine hits all of them. The
best and the median over the repeats are kept; where they lie far apart, the case is timed again. See
``docs/benchmarks.md`` for what each number means.
"""

from __future__ import annotations

import gc
import importlib
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch

from fastvi.benchmarks.results import (
    BLACKJAX,
    JAX,
    SCIKIT_LEARN,
    Result,
    Sampling,
    Timing,
    in_graph,
    largest_spread,
)
from fastvi.benchmarks.timers import Call, CpuTimer, CudaTimer, Timer, captured

FORWARD = "forward"
FORWARD_BACKWARD = "forward+backward"
COPY_BYTES = 256 * 2**20
SEED = 20150901


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes
    ----------
    device, threads
        Where, and with which numbers of threads.
    repeats, block_seconds
        Timed blocks of each provider, and the length of a block.
    with_compile, with_jax
        Whether torch.compile and JAX are timed too.
    largest_spread, attempts
        A case in which a provider's spread is larger is timed again, until it was timed ``attempts`` times.
    """

    device: str = "cpu"
    threads: tuple[int, ...] = (1, 2)
    repeats: int = 15
    block_seconds: float = 0.03
    with_compile: bool = True
    with_jax: bool = False
    largest_spread: float = 0.1
    attempts: int = 3


@dataclass(frozen=True)
class Workload:
    """What a case prepares: one call per provider, the check that they agree, the bytes that one call has to move.

    ``make_jax`` makes JAX's call after it has compared what the call returns; None where JAX has no such case. Where it
    is that of a library over JAX, ``jax_name`` is that library's. ``sampling`` is what calls that draw chains draw.
    ``once``: calls take so long that each is made once, timed, with none before it; what they returned is checked then.
    """

    calls: dict[str, Call]
    check: Callable[[], None]
    bytes_moved: int | None = None
    make_jax: Callable[[], Call] | None = None
    jax_name: str = JAX
    sampling: dict[str, Sampling] = field(default_factory=dict)
    once: bool = False


@dataclass(frozen=True)
class Case:
    """One row of the benchmark; ``prepare(mode, with_compile)`` makes its workload, on PyTorch's default device.

    ``on_request``: it takes minutes, and runs only where it is asked for by its whole name.
    """

    family: str
    name: str
    modes: tuple[str, ...]
    prepare: Callable[[str, bool], Workload]
    on_request: bool = False

    def is_chosen(self, text: str) -> bool:
        """Whether a user who asks for cases with this text in their names asks for this one."""
        return text == self.name if self.on_request else text in self.name


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
                    workload = _workload(case, mode, settings)
                    if not workload.once:
                        workload.check()
                    calls = workload.calls
                    # JAX has one number of threads in a process.
                    if settings.with_jax and workload.make_jax is not None and threads == max(settings.threads):
                        calls = calls | {workload.jax_name: workload.make_jax()}
                    if settings.device == "cuda" and not workload.once:
                        calls = calls | replays(calls)
                    if workload.once:
                        timings, attempts = measure_once(calls, timer), 1
                        workload.check()
                    else:
                        timings, attempts = measure_until_steady(calls, settings, timer)
                    moved, speed = workload.bytes_moved, bandwidth[threads]
                    results.append(
                        Result(
                            case.family, case.name, mode, threads, moved, speed, timings, attempts, workload.sampling
                        )
                    )
    finally:
        torch.set_num_threads(threads_before)
    return results


def _workload(case: Case, mode: str, settings: Settings) -> Workload:
    if settings.with_compile:  # each workload compiles its own functions, for this thread count
        torch.compiler.reset()
    torch.manual_seed(SEED)
    with torch.device(settings.device):
        return case.prepare(mode, settings.with_compile)


def replays(calls: dict[str, Call]) -> dict[str, Call]:
    """The calls as CUDA graphs, under names of their own; without those that cannot be captured."""
    found = {in_graph(name): captured(call) for name, call in calls.items()}
    return {name: replay for name, replay in found.items() if replay is not None}


def measure_until_steady(calls: dict[str, Call], settings: Settings, timer: Timer) -> tuple[dict[str, Timing], int]:
    """Time the calls again while a spread is large; return the timings of the steadiest attempt, and their number.

    All timings are those of one attempt, so that a ratio is one of blocks that alternated.
    """
    attempts = [measure(calls, settings, timer)]
    while largest_spread(attempts[-1]) > settings.largest_spread and len(attempts) < settings.attempts:
        attempts.append(measure(calls, settings, timer))
    return min(attempts, key=largest_spread), len(attempts)


def measure_once(calls: dict[str, Call], timer: Timer) -> dict[str, Timing]:
    """Time one call of each provider."""
    seconds = {name: timer.seconds(call, 1) for name, call in calls.items()}
    return {name: Timing(value, value, value, value, 1, None) for name, value in seconds.items()}


def measure(calls: dict[str, Call], settings: Settings, timer: Timer) -> dict[str, Timing]:
    """Time the calls turn by turn; each repeat runs one block of every provider, in a new random order."""
    counts = {name: _calls_per_block(call, settings.block_seconds, timer) for name, call in calls.items()}
    peaks = {
        name: None if name in (JAX, BLACKJAX, SCIKIT_LEARN) else timer.peak_bytes(call) for name, call in calls.items()
    }
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
        timings[name] = Timing(median, min(values), lower, upper, counts[name], peaks[name])
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
