"""The benchmark harness on a clock and providers of our own: no assertion here depends on how fast anything runs."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest
import torch
from rich.console import Console
from torch import Tensor

from fastvi import benchmarks
from fastvi.benchmarks import harness, report
from fastvi.benchmarks.cases import operation_case
from fastvi.benchmarks.harness import FORWARD, FORWARD_BACKWARD, Case, Settings, Workload
from fastvi.benchmarks.results import COMPILE, EAGER, FASTVI, JAX, SCIKIT_LEARN, Result, in_graph
from fastvi.benchmarks.timers import CpuTimer, CudaTimer

OPERATION_FAMILIES = [
    family for family in benchmarks.FAMILIES if family not in ("coding", "em", "evaluation", "mcmc", "step")
]
ALL_OPERATIONS = [case for family in OPERATION_FAMILIES for case in harness.load_cases(family)]
MACHINE = {"cpu": "test", "cores": 2}
SPEED_TABLE = [
    ("kl_normal 4096x256", FORWARD),
    ("kl_normal 4096x256", FORWARD_BACKWARD),
    ("kl_normal 100x50", FORWARD),
    ("kl_normal 100x50", FORWARD_BACKWARD),
    ("rsample_normal 50x100x50", FORWARD),
    ("rsample_normal 50x100x50", FORWARD_BACKWARD),
    ("rsample_normal 1x4096x256", FORWARD),
    ("rsample_normal 1x4096x256", FORWARD_BACKWARD),
    ("rsample_normal_with_log_ratio 50x100x50", FORWARD_BACKWARD),
    ("log_mean_exp 5000x20", FORWARD_BACKWARD),
    ("log_mean_exp 50x100", FORWARD_BACKWARD),
    ("bernoulli_log_prob 50x100x784, data 100x784", FORWARD_BACKWARD),
    ("leapfrog_step 1000x50", FORWARD),
    ("IWAE step, batch 100, K 50", "step"),
]


class FakeClock:
    """A clock that only moves when a fake provider says how long it took."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def provider(self, name: str, *seconds: float) -> Callable[[], None]:
        """A call that takes the given durations one after the other, the last one from then on."""
        remaining = list(seconds)

        def call() -> None:
            self.log.append(name)
            self.now += remaining.pop(0) if len(remaining) > 1 else remaining[0]

        return call

    def timer(self) -> CpuTimer:
        return CpuTimer(clock=lambda: self.now)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the copy of a large array: its speed is 1 GB/s."""
    monkeypatch.setattr(harness, "copy_bandwidth", lambda timer, settings: 1e9)


def fake_case(clock: FakeClock) -> Case:
    def prepare(mode: str, with_compile: bool) -> Workload:
        calls = {EAGER: clock.provider(EAGER, 2e-3), FASTVI: clock.provider(FASTVI, 1e-3)}
        return Workload(calls, check=lambda: None, bytes_moved=250_000)

    return Case("normal", "fake", (FORWARD,), prepare)


def test_measure_gives_the_seconds_of_one_call() -> None:
    clock = FakeClock()
    calls = {EAGER: clock.provider(EAGER, 2e-3), FASTVI: clock.provider(FASTVI, 0.5e-3)}
    timings = harness.measure(calls, Settings(repeats=5, block_seconds=0.02), clock.timer())
    assert timings[EAGER].median == pytest.approx(2e-3)
    assert timings[FASTVI].median == pytest.approx(0.5e-3)
    assert (timings[EAGER].calls_per_block, timings[FASTVI].calls_per_block) == (10, 40)


def test_measure_ignores_one_slow_block() -> None:
    clock = FakeClock()
    # three warm-up calls, one for calibration, one for the memory, then five blocks of one call
    call = clock.provider(EAGER, *[1.0] * 5, 1.0, 2.0, 100.0, 3.0, 1.0)
    timing = harness.measure({EAGER: call}, Settings(repeats=5, block_seconds=0.02), clock.timer())[EAGER]
    assert (timing.best, timing.lower_quartile, timing.median, timing.upper_quartile) == (1.0, 1.0, 2.0, 3.0)
    assert timing.spread == 1.0  # the median block took twice the time of the best


def test_blocks_of_the_providers_alternate() -> None:
    clock = FakeClock()
    names = ["a", "b", "c"]
    repeats = 12
    harness.measure({name: clock.provider(name, 1.0) for name in names}, Settings(repeats=repeats), clock.timer())
    blocks = clock.log[-repeats * len(names) :]
    rounds = [tuple(blocks[start : start + len(names)]) for start in range(0, len(blocks), len(names))]
    assert all(sorted(order) == names for order in rounds)
    assert len(set(rounds)) > 1


def test_a_single_repeat_is_its_own_quartiles() -> None:
    clock = FakeClock()
    timing = harness.measure({EAGER: clock.provider(EAGER, 1.0)}, Settings(repeats=1), clock.timer())[EAGER]
    assert timing.best == timing.lower_quartile == timing.median == timing.upper_quartile == 1.0
    assert timing.spread == 0.0


# Of an attempt of three blocks: the calls before the blocks, and the blocks; (median - best) / best of three attempts
# is 50 %, 20 % and 30 %.
UNTIMED = [1.0] * 5
ATTEMPTS = ([2.0, 3.0, 4.0], [5.0, 6.0, 7.0], [10.0, 13.0, 14.0])


@pytest.mark.parametrize(
    ("largest_spread", "attempts", "best", "timed"),
    [(0.5, 3, 2.0, 1), (0.4, 3, 5.0, 2), (0.1, 2, 5.0, 2), (0.1, 3, 5.0, 3), (0.1, 1, 2.0, 1)],
    ids=["steady at once", "steady then", "attempts used up", "the steadiest of all", "no second attempt"],
)
def test_what_spreads_is_timed_again(largest_spread: float, attempts: int, best: float, timed: int) -> None:
    clock = FakeClock()
    seconds = [duration for blocks in ATTEMPTS for duration in (*UNTIMED, *blocks)]
    settings = Settings(repeats=3, block_seconds=0.02, largest_spread=largest_spread, attempts=attempts)
    timings, count = harness.measure_until_steady({EAGER: clock.provider(EAGER, *seconds)}, settings, clock.timer())
    assert (timings[EAGER].best, count) == (best, timed)


def test_one_provider_that_spreads_is_enough_to_time_all_again() -> None:
    clock = FakeClock()
    calls = {EAGER: clock.provider(EAGER, 1.0), FASTVI: clock.provider(FASTVI, *UNTIMED, 1.0, 2.0, 3.0, 1.0)}
    timings, count = harness.measure_until_steady(calls, Settings(repeats=3, block_seconds=0.02), clock.timer())
    assert count == 2
    assert timings[FASTVI].median == timings[EAGER].median == 1.0


def test_copy_bandwidth_counts_the_read_and_the_write() -> None:
    ticks = iter([0.0, 2.0, 2.0, 4.0, 4.0, 6.0])  # every copy takes two seconds
    assert harness.copy_bandwidth(CpuTimer(clock=lambda: next(ticks)), Settings(repeats=3), nbytes=1000) == 1000.0


def test_peak_bytes_counts_what_is_held_at_once() -> None:
    x = torch.zeros(2**18)
    slack = 4096  # the scalars that the arithmetic wraps into tensors, and the sum
    both = CpuTimer().peak_bytes(lambda: ((x + 1.0) * 2.0).sum())
    assert 2 * x.nbytes <= both <= 2 * x.nbytes + slack
    in_turn = CpuTimer().peak_bytes(lambda: [(x + 1.0).sum() for _ in range(3)])
    assert x.nbytes <= in_turn <= x.nbytes + slack


@pytest.mark.usefixtures("copies")
def test_jax_is_timed_where_there_is_a_call_with_the_most_threads() -> None:
    clock = FakeClock()

    def prepare(mode: str, with_compile: bool) -> Workload:
        make_jax = (lambda: clock.provider(JAX, 1.0)) if mode == "a" else None
        return Workload({EAGER: clock.provider(EAGER, 1.0)}, check=lambda: None, make_jax=make_jax)

    case = Case("normal", "fake", ("a", "b"), prepare)
    settings = Settings(threads=(2, 1), repeats=1, with_compile=False, with_jax=True)
    results = harness.run([case], settings, clock.timer())
    found = [(result.mode, result.threads) for result in results if JAX in result.timings]
    assert found == [("a", 2)]
    assert results[0].timings[JAX].peak_bytes is None
    without = harness.run([case], Settings(threads=(2,), repeats=1, with_compile=False), clock.timer())
    assert all(list(result.timings) == [EAGER] for result in without)


@pytest.mark.usefixtures("copies")
def test_run_sets_each_thread_count_and_restores_it() -> None:
    seen = []

    def prepare(mode: str, with_compile: bool) -> Workload:
        seen.append((mode, torch.get_num_threads(), with_compile))
        return Workload({EAGER: clock.provider(EAGER, 1.0)}, check=lambda: None)

    clock = FakeClock()
    before = torch.get_num_threads()
    settings = Settings(threads=(1, 2), repeats=1, with_compile=False)
    results = harness.run([Case("normal", "fake", ("a", "b"), prepare)], settings, clock.timer())
    assert seen == [("a", 1, False), ("a", 2, False), ("b", 1, False), ("b", 2, False)]
    assert [(result.mode, result.threads) for result in results] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert torch.get_num_threads() == before


class FakeGpu:
    """A stream whose events are marks in a log; a call takes the milliseconds that it says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def work(self, name: str, milliseconds: float) -> Callable[[], None]:
        def call() -> None:
            self.log.append(name)
            self.now += milliseconds

        return call

    def event(self) -> FakeEvent:
        return FakeEvent(self)

    def timer(self) -> CudaTimer:
        return CudaTimer(self.work("flush", 100.0), self.event, self.work("synchronize", 0.0))


class FakeEvent:
    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu = gpu

    def record(self) -> None:
        self.time = self.gpu.now
        self.gpu.log.append("event")

    def elapsed_time(self, end_event: FakeEvent) -> float:
        assert self.gpu.log[-1] == "synchronize"
        return end_event.time - self.time


def test_gpu_calls_are_timed_one_by_one_between_flushes() -> None:
    gpu = FakeGpu()
    assert gpu.timer().seconds(gpu.work("call", 2.0), 3) == pytest.approx(2e-3)
    assert gpu.log == ["flush", "event", "call", "event"] * 3 + ["synchronize"]


def test_gpu_blocks_are_as_long_as_what_is_timed_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CudaTimer, "peak_bytes", lambda self, call: 0)
    gpu = FakeGpu()
    calls = {EAGER: gpu.work(EAGER, 2.0), FASTVI: gpu.work(FASTVI, 0.5)}
    timings = harness.measure(calls, Settings(repeats=5, block_seconds=0.02), gpu.timer())
    assert (timings[EAGER].calls_per_block, timings[FASTVI].calls_per_block) == (10, 40)
    assert timings[EAGER].median == pytest.approx(2e-3)
    assert timings[FASTVI].median == pytest.approx(0.5e-3)


def test_gpu_peak_is_what_a_call_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"now": 1000, "peak": 9000}

    def call() -> None:
        held["peak"] = max(held["peak"], held["now"] + 500)

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: held.update(peak=held["now"]))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: held["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: held["peak"])
    assert FakeGpu().timer().peak_bytes(call) == 500


def test_what_can_be_captured_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, Callable[[], None]] = {EAGER: lambda: None, FASTVI: lambda: None}
    replayed = []
    monkeypatch.setattr(
        harness, "captured", lambda call: None if call is calls[EAGER] else lambda: replayed.append(call)
    )
    found = harness.replays(calls)
    assert list(found) == [in_graph(FASTVI)]
    found[in_graph(FASTVI)]()
    assert replayed == [calls[FASTVI]]


@pytest.mark.parametrize(
    # The arrays of two are NumPy's; chains decide on the host how far they go.
    "family",
    [family for family in benchmarks.FAMILIES if family not in ("coding", "em", "mcmc")],
)
def test_cases_are_made_on_the_device(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On "meta", which no other device's tensors may meet: nothing in a call is made elsewhere."""
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda parameters, **_: adam(parameters))  # the fused one refuses "meta"
    for case in harness.load_cases(family):
        if family == "step" and case.name != "IWAE step, batch 20, K 1":
            continue
        for mode in case.modes:
            with torch.device("meta"):
                workload = case.prepare(mode, False)
            for call in workload.calls.values():
                call()


def _double(x: Tensor) -> Tensor:
    return 2.0 * x.square()


def _case_of(fastvi: Callable[..., Tensor], formula: Callable[..., Tensor] = _double, draws: bool = False) -> Case:
    return operation_case("normal", "double", lambda: (torch.randn(40, 50),), formula, fastvi, (0,), (0,), draws)


@pytest.mark.parametrize("mode", [FORWARD, FORWARD_BACKWARD])
def test_the_guard_accepts_what_agrees(mode: str) -> None:
    _case_of(lambda x: x.square() + x * x).prepare(mode, False).check()


@pytest.mark.parametrize("mode", [FORWARD, FORWARD_BACKWARD])
def test_the_guard_refuses_another_value(mode: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(f"double, {mode}, fastvi")):
        _case_of(lambda x: 2.001 * x.square()).prepare(mode, False).check()


def test_the_guard_refuses_another_gradient() -> None:
    with pytest.raises(AssertionError, match=r"double, forward\+backward, fastvi"):
        _case_of(lambda x: x.square() + x.detach().square()).prepare(FORWARD_BACKWARD, False).check()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: x + 1.2 * torch.randn_like(x), "moment 2"),
        (lambda x: x + torch.randn_like(x) + 0.2, "moment 1"),
        (lambda x: (x + torch.randn_like(x))[1:], "shape"),
    ],
)
def test_the_guard_of_draws_compares_shape_and_moments(wrong: Callable[[Tensor], Tensor], message: str) -> None:
    torch.manual_seed(3)
    case = operation_case(
        "random", "noise", lambda: (torch.randn(300, 50),), lambda x: x + torch.randn_like(x), wrong, draws=True
    )
    with pytest.raises(AssertionError, match=message):
        case.prepare(FORWARD, False).check()


def test_bytes_moved() -> None:
    case = operation_case(
        "normal",
        "product",
        lambda: (torch.randn(4, 3), torch.randn(3)),
        lambda x, y: (x * y).sum(-1),
        lambda x, y: (x * y).sum(-1),
        differentiable=(0,),
        read_again=(1,),
    )
    forward = 4 * (12 + 3 + 4)  # both inputs, the output
    assert case.prepare(FORWARD, False).bytes_moved == forward
    assert case.prepare(FORWARD_BACKWARD, False).bytes_moved == forward + 4 * (3 + 4 + 12)  # y, upstream, gradient of x


def test_only_the_backward_mode_records_a_graph() -> None:
    recorded = []

    def spy(x: Tensor) -> Tensor:
        recorded.append(x.requires_grad)
        return _double(x)

    for mode in (FORWARD, FORWARD_BACKWARD):
        workload = _case_of(spy).prepare(mode, False)
        recorded.clear()
        workload.calls[FASTVI]()
        assert recorded == [mode == FORWARD_BACKWARD]


@pytest.mark.usefixtures("copies")
def test_each_workload_compiles_its_own_function(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, resets = [], []

    def fake_compile(function: Callable[..., Tensor], *, dynamic: bool) -> Callable[..., Tensor]:
        compiled.append((function, dynamic))
        return function

    monkeypatch.setattr(torch, "compile", fake_compile)
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(True))
    results = harness.run([_case_of(_double)], Settings(threads=(1,), repeats=1, block_seconds=1e-4))
    assert compiled == [(_double, False)] * 2
    assert len(resets) == 2
    assert [list(result.timings) for result in results] == [[EAGER, COMPILE, FASTVI]] * 2


@pytest.mark.parametrize("case", ALL_OPERATIONS, ids=lambda case: case.name)
def test_providers_of_every_operation_agree(case: Case) -> None:
    for mode in case.modes:
        torch.manual_seed(harness.SEED)
        workload = case.prepare(mode, False)
        workload.check()
        assert list(workload.calls) == [EAGER, FASTVI]
        assert workload.bytes_moved is not None
        for call in workload.calls.values():
            call()


def test_an_iteration_of_every_mixture_agrees() -> None:
    for case in harness.load_cases("em"):
        if "20000x10" in case.name:
            workload = case.prepare("iteration", False)
            workload.check()
            assert list(workload.calls) == [SCIKIT_LEARN, FASTVI]
            for call in workload.calls.values():
                call()


def test_every_row_of_the_speed_table_is_there() -> None:
    rows = {
        (case.name, mode)
        for family in benchmarks.FAMILIES
        for case in harness.load_cases(family)
        for mode in case.modes
    }
    assert set(SPEED_TABLE) <= rows


def test_case_names_are_unique_and_know_their_family() -> None:
    found = [(family, case) for family in benchmarks.FAMILIES for case in harness.load_cases(family)]
    assert all(case.family == family for family, case in found)
    assert len({case.name for _, case in found}) == len(found)


def test_table_leaves_out_what_was_not_measured() -> None:
    clock = FakeClock()
    timings = harness.measure(fake_case(clock).prepare(FORWARD, False).calls, Settings(repeats=1), clock.timer())
    screen = io.StringIO()
    report.print_tables([Result("step", "s", "step", 1, None, 1e9, timings)], MACHINE, Console(file=screen))
    assert COMPILE not in screen.getvalue()
    assert "bandwidth  " not in screen.getvalue()
    assert "2.00x" in screen.getvalue()
