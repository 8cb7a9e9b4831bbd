"""How a call is measured, in seconds and in bytes: on the CPU by its clock, on a GPU by events in the stream."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.autograd.profiler import profile

Call = Callable[[], object]


class Timer(Protocol):
    """What the harness asks of a device."""

    def seconds(self, call: Call, count: int) -> float:
        """Seconds per call, over one block of ``count`` calls."""
        ...

    def peak_bytes(self, call: Call) -> int:
        """Largest number of bytes that one call holds at once in tensors it allocated, from PyTorch's own allocator."""
        ...


@dataclass(frozen=True)
class CpuTimer:
    """A clock in seconds; a call is done when it returns."""

    clock: Callable[[], float] = time.perf_counter

    def seconds(self, call: Call, count: int) -> float:
        """Seconds per call, over one block of ``count`` calls."""
        start = self.clock()
        for _ in range(count):
            call()
        return (self.clock() - start) / count

    def peak_bytes(self, call: Call) -> int:
        """Add up what the profiler has seen allocated and released, in its order."""
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler else prints two lines for each use
        with profile(profile_memory=True) as recorded:
            call()
        events = recorded.kineto_results.events() if recorded.kineto_results is not None else []
        changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
        held = peak = 0
        for _, change in sorted(changes, key=lambda moment: moment[0]):
            held += change
            peak = max(peak, held)
        return peak


class Event(Protocol):
    """A mark in a stream of work, as `torch.cuda.Event` is."""

    def record(self) -> None:
        """Set the mark behind what is queued."""

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds from this mark to a later one."""
        ...


@dataclass(frozen=True)
class CudaTimer:
    """Events in the current stream before and after each call; between the calls, the cache is flushed, untimed.

    Flushes are queued like the calls: while the GPU is busy with one, the host is ahead with the next call.
    """

    flush: Call
    new_event: Callable[[], Event]
    synchronize: Callable[[], object]

    @classmethod
    def of_current_device(cls) -> CudaTimer:
        """Return a timer that flushes by writing twice what the L2 cache holds."""
        nbytes = 2 * torch.cuda.get_device_properties().L2_cache_size
        memory = torch.empty(nbytes, dtype=torch.uint8, device="cuda")
        return cls(memory.zero_, lambda: torch.cuda.Event(enable_timing=True), torch.cuda.synchronize)

    def seconds(self, call: Call, count: int) -> float:
        """Seconds per call, over one block of ``count`` calls."""
        pairs = [(self.new_event(), self.new_event()) for _ in range(count)]
        for start, end in pairs:
            self.flush()
            start.record()
            call()
            end.record()
        self.synchronize()
        return sum(start.elapsed_time(end) for start, end in pairs) / 1e3 / count

    def peak_bytes(self, call: Call) -> int:
        """Ask PyTorch's allocator; the memory of a graph was taken when it was captured, and is not a call's."""
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before


def captured(call: Call) -> Call | None:
    """A call that replays ``call`` as a CUDA graph; None where it cannot be captured."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # what happens in first calls alone must not get into the graph
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    try:
        # The outer context puts the stream back where the inner one fails to.
        with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
            call()
    except RuntimeError:
        return None
    return graph.replay
