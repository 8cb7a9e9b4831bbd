"""What a benchmark run leaves: the table on the screen, a JSON file with every number, a picture of the ratios."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from fastvi._terminal import make_console
from fastvi.benchmarks.harness import FASTVI, PROVIDERS, RATIOS, Case, Result, Settings
from fastvi.training.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE_WIDTH = 220
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


def machine(device: str = "cpu") -> dict[str, str | int]:
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


def print_tables(results: Sequence[Result], machine: dict[str, str | int], console: Console | None = None) -> None:
    """Print one table per family and, below, what it was measured on."""
    console = console or make_console()
    if not console.is_terminal:
        console = make_console(file=console.file, width=FILE_WIDTH)
    for family in dict.fromkeys(result.family for result in results):
        console.print(_table(family, [result for result in results if result.family == family]))
    for threads, speed in {result.threads: result.copy_bandwidth for result in results}.items():
        console.print(f"copy bandwidth, threads {threads}: {speed / 1e9:.1f} GB/s")
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()))


def _table(family: str, results: Sequence[Result]) -> Table:
    providers = [name for name in PROVIDERS if any(name in result.timings for result in results)]
    ratios = [pair for pair in RATIOS if set(pair) <= set(providers)]
    fractions = [result.bandwidth_fraction(FASTVI) for result in results]
    measured = any(fraction is not None for fraction in fractions)
    table = Table(title=f"{family}, microseconds", title_justify="left", box=box.SIMPLE_HEAD)
    for header in ("case", "mode"):
        table.add_column(header)
    for header in (
        "threads",
        *providers,
        *(f"{baseline} /\n{provider}" for baseline, provider in ratios),
        *(["bandwidth"] if measured else []),
        "peak MiB,\nin this order",
    ):
        table.add_column(header, justify="right")
    for result, fraction in zip(results, fractions, strict=True):
        timings = {name: result.timings[name] for name in providers if name in result.timings}
        table.add_row(
            result.case,
            result.mode,
            str(result.threads),
            *(f"{timings[name].median * 1e6:.1f}" if name in timings else "" for name in providers),
            *(_ratio(result.ratio(*pair)) for pair in ratios),
            *(["" if fraction is None else f"{fraction:.0%}"] if measured else []),
            " ".join(f"{timing.peak_bytes / 2**20:.2f}" for timing in timings.values()),
        )
    return table


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"


def as_json(results: Sequence[Result], settings: Settings, machine: dict[str, str | int]) -> dict[str, object]:
    """Return everything measured; times in seconds, memory in bytes, bandwidth in bytes per second."""
    rows = []
    for result in results:
        row = asdict(result)
        row["ratios"] = {f"{baseline} / {provider}": result.ratio(baseline, provider) for baseline, provider in RATIOS}
        row["bandwidth_fraction"] = {name: result.bandwidth_fraction(name) for name in result.timings}
        rows.append(row)
    return {"machine": machine, "settings": asdict(settings), "results": rows}


def write_json(path: Path, results: Sequence[Result], settings: Settings, machine: dict[str, str | int]) -> None:
    """Write `as_json` to a file."""
    write_whole(path, (json.dumps(as_json(results, settings, machine), indent=2) + "\n").encode())


def plot_obstacle(path: Path) -> str | None:
    """Why `write_plot` could not draw what ``path`` is to hold; None where it can."""
    try:
        from matplotlib.figure import Figure

        figure = Figure()
        figure.suptitle("takes fonts too")
        _drawn(figure, path)
    except ImportError as error:
        return f'a picture needs matplotlib: pip install "fastvi[bench]" ({error})'
    except (OSError, ValueError, RuntimeError) as error:
        return f"matplotlib cannot draw it ({error})"
    return None


def write_plot(path: Path, results: Sequence[Result]) -> None:
    """Draw, for each number of threads, how many times faster fastvi is than eager and compiled PyTorch."""
    from matplotlib.figure import Figure

    thread_counts = list(dict.fromkeys(result.threads for result in results))
    pairs = [pair for pair in RATIOS if any(result.ratio(*pair) is not None for result in results)]
    rows = list(dict.fromkeys((result.case, result.mode) for result in results))
    height = 0.8 / len(pairs)
    figure = Figure(figsize=(4.0 + 4.0 * len(thread_counts), 2.0 + 0.4 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(thread_counts), sharex=True, sharey=True, squeeze=False)[0]
    for panel, threads in zip(panels, thread_counts, strict=True):
        for index, pair in enumerate(pairs):
            bars = [
                (rows.index((result.case, result.mode)) + (index - (len(pairs) - 1) / 2) * height, ratio - 1.0)
                for result in results
                if result.threads == threads and (ratio := result.ratio(*pair)) is not None
            ]
            panel.barh(*zip(*bars, strict=True), height=height, left=1.0, label=" / ".join(pair))
        panel.axvline(1.0, color="black", linewidth=0.8)
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter("{x:g}x")
        panel.set_yticks(range(len(rows)), [f"{case}, {mode}" for case, mode in rows])
        panel.set_title(f"threads: {threads}")
    panels[0].invert_yaxis()
    figure.suptitle("time of PyTorch / time of fastvi")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    write_whole(path, _drawn(figure, path))


def _drawn(figure: Figure, path: Path) -> bytes:
    """Return the picture in the format that the file's name ends in, PNG without an ending."""
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format=path.suffix[1:].lower() or "png")
    return picture.getvalue()
