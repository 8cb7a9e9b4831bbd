"""Benchmarks: fastvi beside plain PyTorch and torch.compile, all through one harness; behind ``fastvi bench``."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fastvi._terminal import (
    FAILED_EXIT_CODE,
    LARGEST_COUNT,
    MAX_THREADS,
    fail,
    parse_path,
    reason,
    show_error,
    whole_number,
)


def _families() -> tuple[str, ...]:
    """The modules of this folder that have a list ``CASES``, by their text: to import them takes PyTorch."""
    files = [path for path in Path(__file__).parent.glob("*.py") if path != Path(__file__)]
    found = [path.stem for path in files if re.search(r"^CASES\b", path.read_text(encoding="utf-8"), re.MULTILINE)]
    return tuple(sorted(found, key=lambda family: (family == "step", family)))


FAMILIES = _families()
"""In the order of the tables: the operations, then the step of training that is made of them."""
_THREADS = {"cpu": "1,2", "cuda": "1"}
"""Thread counts that are taken on each device unless told otherwise."""
_BLOCK_SECONDS = {"cpu": 0.03, "cuda": 0.003}
"""Timed seconds of a block: on a GPU, the flushes between its calls take several times as long, and are not timed."""


def bench(
    family: Annotated[str | None, typer.Option(help=f"Only this family: {', '.join(FAMILIES)}.")] = None,
    case: Annotated[str, typer.Option(help="Only cases whose name contains this text.")] = "",
    threads: Annotated[
        str | None, typer.Option(help="Thread counts, separated by commas; default: 1,2, with cuda 1.")
    ] = None,
    repeats: Annotated[
        int,
        typer.Option(parser=whole_number(1, LARGEST_COUNT), metavar="COUNT", help="Timed blocks of every provider."),
    ] = 15,
    quick: Annotated[
        bool, typer.Option("--quick", help="Three repeats of short blocks, each case once: a smoke test.")
    ] = False,
    with_compile: Annotated[bool, typer.Option("--compile/--no-compile", help="Time torch.compile too.")] = True,
    with_jax: Annotated[bool, typer.Option("--jax/--no-jax", help="Time JAX too, where it is installed.")] = True,
    device: Annotated[str, typer.Option(help="Where to run: cpu, or cuda for PyTorch's current GPU.")] = "cpu",
    json: Annotated[
        Path | None, typer.Option(parser=parse_path, metavar="FILE", help="Write every number to this file.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(parser=parse_path, metavar="FILE", help="Draw the ratios as bars into this picture.")
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="A B", help="Time nothing: print the ratios of two files that --json wrote."),
    ] = None,
) -> None:
    """Time fastvi, plain PyTorch and torch.compile side by side, and print one table per family."""
    if family is not None and family not in FAMILIES:
        raise typer.BadParameter(f"got {family!r}, expected one of {', '.join(FAMILIES)}", param_hint="--family")
    if device not in _THREADS:
        raise typer.BadParameter(f"got {device!r}, expected 'cpu' or 'cuda'", param_hint="--device")
    thread_counts = _thread_counts(_THREADS[device] if threads is None else threads)

    if compare is not None:
        if json is not None or plot is not None:
            raise typer.BadParameter("it times nothing that --json or --plot could write", param_hint="--compare")
        _compare((parse_path(compare[0]), parse_path(compare[1])), family, case)
        return

    # Imported here, because they import torch: `fastvi --help` answers at once.
    from fastvi.benchmarks import picture, report
    from fastvi.benchmarks.harness import Settings, load_cases, run
    from fastvi.benchmarks.jax_runtime import jax_obstacle
    from fastvi.benchmarks.results import JAX
    from fastvi.ops._backends import cuda_obstacle
    from fastvi.training.files import check_writable

    if device == "cuda" and (obstacle := cuda_obstacle()) is not None:
        raise typer.BadParameter(f"got 'cuda', but {obstacle}", param_hint="--device")
    families = [name for name in FAMILIES if family in (None, name)]
    cases = [found for name in families for found in load_cases(name) if found.is_chosen(case)]
    if not cases:
        raise typer.BadParameter(f"no case has {case!r} in its name", param_hint="--case")
    for option, path in (("--json", json), ("--plot", plot)):
        if path is not None:
            try:
                check_writable(path)
            except OSError as error:
                fail(f"{option}: {reason(error)}")
    if plot is not None and (obstacle := picture.plot_obstacle(plot)) is not None:
        fail(f"--plot {plot}: {obstacle}")
    without_jax = jax_obstacle(device, max(thread_counts)) if with_jax else None
    settings = Settings(
        device=device,
        threads=thread_counts,
        repeats=min(repeats, 3) if quick else repeats,
        block_seconds=_BLOCK_SECONDS[device] / (6 if quick else 1),
        with_compile=with_compile,
        with_jax=with_jax and without_jax is None,
        attempts=1 if quick else Settings.attempts,
    )
    machine = report.machine(device, settings.with_jax)
    with report.progress() as track:
        results = run(cases, settings, track=track)
    written = True
    try:
        notes = [] if without_jax is None else [f"{JAX} is not timed: {without_jax}"]
        report.print_tables(results, machine, notes=notes)
    finally:  # a screen or pipe that takes no more is no reason to lose the files
        if json is not None:
            written &= _write(partial(report.write_json, json, results, settings, machine))
        if plot is not None:
            written &= _write(partial(picture.write_plot, plot, results))
    if not written:
        raise typer.Exit(FAILED_EXIT_CODE)


def _compare(paths: tuple[Path, Path], family: str | None, case: str) -> None:
    """Print what two files say about the same cases."""
    from fastvi.benchmarks.compare import NotComparableError, print_comparison, read

    try:
        first, second = (read(path).only(family, case) for path in paths)
        print_comparison(first, second)
    except OSError as error:
        fail(f"--compare: {reason(error)}")
    except NotComparableError as error:
        fail(f"--compare: {error}")


def _write(write: Callable[[], None]) -> bool:
    """Return whether a file was written, and say why not."""
    try:
        write()
    except OSError as error:
        show_error(reason(error))
        return False
    return True


def _thread_counts(text: str) -> tuple[int, ...]:
    numbers = [number.strip() for number in text.split(",")]
    # By its digits first: Python refuses to convert thousands of them.
    if not all(number.isdecimal() and len(number) < 10 and 1 <= int(number) <= MAX_THREADS for number in numbers):
        raise typer.BadParameter(
            f"got {text!r}, expected positive numbers up to {MAX_THREADS}, such as '1,2'", param_hint="--threads"
        )
    return tuple(int(number) for number in numbers)
