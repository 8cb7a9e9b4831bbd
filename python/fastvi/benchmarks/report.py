"""What a benchmark run leaves: the tables on the screen, and a JSON file with every number."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from fastvi._terminal import make_console
from fastvi.benchmarks.harness import Case, Settings
from fastvi.benchmarks.results import FASTVI, PROVIDERS, RATIOS, Result, largest_spread
from fastvi.training.files import write_whole

FORMAT, FORMAT_VERSION = "fastvi bench", 2
"""What a JSON file says that it is; the version changes with the meaning of what it holds."""
FILE_WIDTH = 280
"""Columns of a table that goes to a file or a pipe: enough that no line has to wrap."""


@contextmanager
def progress() -> Iterator[Callable[[Sequence[Case]], Iterable[Case]]]:
    """Give a ``track`` for `harness.run` that names the running case on standard error."""
    with Progress(console=make_console(stderr=True), transient=True) as bar:

        def track(cases: Sequence[Case]) -> Iterator[Case]:
            task = bar.add_task("", total=len(cases))
            for case in cases:
                bar.update(task, description=escape(case.name))
                yield case
                bar.advance(task)

        yield track


def machine(device: str = "cpu", with_jax: bool = False) -> dict[str, str | int]:
    """Describe what the numbers were measured on and with."""
    from fastvi import _native

    gpu = {"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}
    return {
        **gpu,
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 1,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **({"jax": importlib.metadata.version("jax")} if with_jax else {}),
        "fastvi": importlib.metadata.version("fastvi"),
        "isa": _native.selected_isa(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def print_tables(
    results: Sequence[Result],
    machine: dict[str, str | int],
    console: Console | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Print each family's tables and, below, which cases were timed again, the notes, and what it was measured on."""
    console = wide_console(console)
    for family in dict.fromkeys(result.family for result in results):
        members = [result for result in results if result.family == family]
        console.print(_median_table(family, members))
        console.print(_best_table(family, members))
        if any(result.sampling for result in members):
            console.print(_sampling_table(family, [result for result in members if result.sampling]))
    for result in results:
        if result.attempts > 1:
            console.print(
                f"timed {result.attempts} times, because the spread was large: {result.case}, {result.mode}, "
                f"threads {result.threads}; the spread of the attempt shown is {largest_spread(result.timings):.0%}"
            )
    for note in notes:
        console.print(note)
    for threads, speed in {result.threads: result.copy_bandwidth for result in results}.items():
        console.print(f"copy bandwidth, threads {threads}: {speed / 1e9:.1f} GB/s")
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()))


def wide_console(console: Console | None = None) -> Console:
    """Return a console whose lines do not wrap in a file or a pipe."""
    console = console or make_console()
    return console if console.is_terminal else make_console(file=console.file, width=FILE_WIDTH)


def _median_table(family: str, results: Sequence[Result]) -> Table:
    providers = _providers(results)
    ratios = _ratios(providers)
    fractions = [result.bandwidth_fraction(FASTVI) for result in results]
    measured = any(fraction is not None for fraction in fractions)
    table = _table(
        f"{family}, median in microseconds",
        *providers,
        *(f"{baseline} /\n{provider}" for baseline, provider in ratios),
        *(["bandwidth"] if measured else []),
        "peak MiB,\nin this order",
    )
    for result, fraction in zip(results, fractions, strict=True):
        timings = {name: result.timings[name] for name in providers if name in result.timings}
        table.add_row(
            result.case,
            result.mode,
            str(result.threads),
            *(f"{timings[name].median * 1e6:.1f}" if name in timings else "" for name in providers),
            *(_shown_ratio(result.ratio(*pair)) for pair in ratios),
            *(["" if fraction is None else f"{fraction:.0%}"] if measured else []),
            " ".join(_shown_memory(timing.peak_bytes) for timing in timings.values()),
        )
    return table


def _best_table(family: str, results: Sequence[Result]) -> Table:
    providers = _providers(results)
    ratios = _ratios(providers)
    table = _table(
        f"{family}, best in microseconds, and spread: (median - best) / best",
        *providers,
        *(f"{baseline} /\n{provider}" for baseline, provider in ratios),
        "attempts",
    )
    for result in results:
        timings = result.timings
        table.add_row(
            result.case,
            result.mode,
            str(result.threads),
            *(
                f"{timings[name].best * 1e6:.1f} +{timings[name].spread:.0%}" if name in timings else ""
                for name in providers
            ),
            *(_shown_ratio(result.ratio(*pair, "best")) for pair in ratios),
            str(result.attempts),
        )
    return table


def _sampling_table(family: str, results: Sequence[Result]) -> Table:
    providers = [name for name in PROVIDERS if any(name in result.sampling for result in results)]
    others = [name for name in providers if name != FASTVI]
    table = _table(
        f"{family}, effective draws of the first or second moment that has the fewest, and spread over runs",
        *(f"{name},\nper 1000 gradients" for name in providers),
        *(f"{name},\nper second" for name in providers),
        *(f"{FASTVI} / {name},\nper {unit}" for name in others for unit in ("gradient", "second")),
    )
    for result in results:
        found, rates = result.sampling, {name: result.effective_draws_per_second(name) for name in providers}
        ratios: list[float | None] = []
        for name in others:
            ours, theirs = rates.get(FASTVI), rates[name]
            both = name in found and FASTVI in found
            ratios.append(found[FASTVI].per_gradient / found[name].per_gradient if both else None)
            ratios.append(None if ours is None or theirs is None else ours / theirs)
        table.add_row(
            result.case,
            result.mode,
            str(result.threads),
            *(
                f"{1e3 * found[name].per_gradient:.1f} +-{found[name].spread:.0%}" if name in found else ""
                for name in providers
            ),
            *("" if rate is None else f"{rate:.0f}" for rate in rates.values()),
            *map(_shown_ratio, ratios),
        )
    return table


def _table(title: str, *headers: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for header in ("case", "mode"):
        table.add_column(header)
    for header in ("threads", *headers):
        table.add_column(header, justify="right")
    return table


def _providers(results: Sequence[Result]) -> list[str]:
    return [name for name in PROVIDERS if any(name in result.timings for result in results)]


def _ratios(providers: Sequence[str]) -> list[tuple[str, str]]:
    return [pair for pair in RATIOS if set(pair) <= set(providers)]


def _shown_ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"


def _shown_memory(nbytes: int | None) -> str:
    return "?" if nbytes is None else f"{nbytes / 2**20:.2f}"


def as_json(results: Sequence[Result], settings: Settings, machine: dict[str, str | int]) -> dict[str, object]:
    """Return everything measured; times in seconds, memory in bytes, bandwidth in bytes per second."""
    rows = []
    for result in results:
        row = asdict(result)
        for name, timing in result.timings.items():
            row["timings"][name]["spread"] = timing.spread
        row["ratios"] = {" / ".join(pair): result.ratio(*pair) for pair in RATIOS}
        row["ratios_of_best"] = {" / ".join(pair): result.ratio(*pair, "best") for pair in RATIOS}
        row["effective_draws_per_second"] = {name: result.effective_draws_per_second(name) for name in result.sampling}
        row["bandwidth_fraction"] = {name: result.bandwidth_fraction(name) for name in result.timings}
        rows.append(row)
    head = {"format": FORMAT, "format_version": FORMAT_VERSION}
    return {**head, "machine": machine, "settings": asdict(settings), "results": rows}


def write_json(path: Path, results: Sequence[Result], settings: Settings, machine: dict[str, str | int]) -> None:
    """Write `as_json` to a file."""
    write_whole(path, (json.dumps(as_json(results, settings, machine), indent=2) + "\n").encode())
