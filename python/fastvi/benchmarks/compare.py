"""Two files of ``fastvi bench --json`` side by side: ratios of their times, and how machine and settings differ."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from fastvi.benchmarks.report import FORMAT, FORMAT_VERSION, wide_console

Key = tuple[str, str, int, str]
"""Case, mode, number of threads, provider."""


class NotComparableError(ValueError):
    """A file that is not one of ``fastvi bench --json`` in today's format, or two files without a common case."""


@dataclass(frozen=True)
class Times:
    """Median and best seconds per call of one provider."""

    family: str
    median: float
    best: float

    @property
    def spread(self) -> float:
        """How much longer the median block took than the best one, as a fraction of the best."""
        return (self.median - self.best) / self.best


@dataclass(frozen=True)
class Recording:
    """What one file holds, as far as two of them can be compared."""

    name: str
    machine: Mapping[str, object]
    settings: Mapping[str, object]
    times: Mapping[Key, Times]

    def only(self, family: str | None, case: str) -> Recording:
        """Return the part of one family, and of the cases with this text in their name."""
        kept = {key: times for key, times in self.times.items() if family in (None, times.family) and case in key[0]}
        return Recording(self.name, self.machine, self.settings, kept)


def read(path: Path) -> Recording:
    """Read a file of ``fastvi bench --json``.

    Raises
    ------
    OSError
        If the file cannot be read.
    NotComparableError
        If it is not a file of ``fastvi bench --json``, or one of another format version.
    """
    data = path.read_bytes()
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NotComparableError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(content, dict) or content.get("format", FORMAT) != FORMAT or "results" not in content:
        raise NotComparableError(f"{path}: not a file of fastvi bench --json")
    version = content.get("format_version", 1)  # the first one did not say so
    if version != FORMAT_VERSION:
        raise NotComparableError(
            f"{path}: format version {version!r}, but this fastvi reads version {FORMAT_VERSION}; time the cases again"
        )
    try:
        times = dict(_times(row, provider) for row in content["results"] for provider in row["timings"])
        machine, settings = dict(content["machine"]), dict(content["settings"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        message = f"{path}: damaged, it is not as fastvi bench --json wrote it ({type(error).__name__}: {error})"
        raise NotComparableError(message) from error
    return Recording(str(path), machine, settings, times)


def _times(row: Mapping[str, object], provider: str) -> tuple[Key, Times]:
    timings = row["timings"]
    if not isinstance(timings, dict):
        raise TypeError("timings must be an object")
    median, best = (float(timings[provider][name]) for name in ("median", "best"))
    if not 0.0 < best <= median < math.inf:
        raise ValueError(f"a median of {median} seconds, a best of {best}")
    key = (str(row["case"]), str(row["mode"]), int(str(row["threads"])), provider)
    return key, Times(str(row["family"]), median, best)


def print_comparison(first: Recording, second: Recording, console: Console | None = None) -> None:
    """Print the ratios of all that both recordings hold, what only one of them holds, and how they differ otherwise.

    Raises
    ------
    NotComparableError
        If there is nothing that both hold.
    """
    common = [key for key in first.times if key in second.times]
    if not common:
        raise NotComparableError(
            f"{first.name} and {second.name} have no case, mode, thread count and provider in common"
        )
    console = wide_console(console)
    table = Table(title="A / B: how many times faster B is", title_justify="left", box=box.SIMPLE_HEAD)
    for header in ("case", "mode", "threads", "provider"):
        table.add_column(header, justify="right" if header == "threads" else "left")
    for header in (
        "A median\nin us",
        "B median\nin us",
        "A / B\nmedian",
        "A / B\nbest",
        "spread\nof A",
        "spread\nof B",
    ):
        table.add_column(header, justify="right")
    table.add_column("more than\nthe spreads")
    for key in common:
        case, mode, threads, provider = key
        a, b = first.times[key], second.times[key]
        distance = max(a.median, b.median) / min(a.median, b.median) - 1.0
        table.add_row(
            case,
            mode,
            str(threads),
            provider,
            f"{a.median * 1e6:.1f}",
            f"{b.median * 1e6:.1f}",
            f"{a.median / b.median:.2f}x",
            f"{a.best / b.best:.2f}x",
            f"{a.spread:.0%}",
            f"{b.spread:.0%}",
            "yes" if distance > max(a.spread, b.spread) else "no",
        )
    console.print(table)
    for letter, recording, other in (("A", first, second), ("B", second, first)):
        console.print(f"{letter}: {recording.name}, {recording.machine.get('date', 'without a date')}")
        for case, mode, threads, provider in (key for key in recording.times if key not in other.times):
            console.print(f"only in {letter}: {case}, {mode}, threads {threads}, {provider}")
    for line in differences(first, second):
        console.print(line)


def differences(first: Recording, second: Recording) -> Sequence[str]:
    """Return a line for each entry of machine and settings in which they differ, the date left out."""
    lines = []
    for kind, a, b in (("machine", first.machine, second.machine), ("settings", first.settings, second.settings)):
        for name in dict.fromkeys((*a, *b)):
            if name != "date" and a.get(name) != b.get(name):
                lines.append(
                    f"{kind} differs, {name}: A {a.get(name, 'does not say')}, B {b.get(name, 'does not say')}"
                )
    return lines or ["machine and settings are the same"]
