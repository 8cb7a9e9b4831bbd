"""``fastvi sample``."""

from __future__ import annotations

from typing import Annotated

import typer

from fastvi._terminal import LARGEST_COUNT, make_console, whole_number
from fastvi.commands.run_outputs import (
    Out,
    Overwrite,
    Run,
    check_out,
    npz_bytes,
    one_line,
    open_run,
    show_arrays,
    write_results,
)
from fastvi.commands.shared import Device, Threads, seed_option


def sample(
    run: Run,
    out: Out,
    number: Annotated[
        int,
        typer.Option(
            "-n", "--number", parser=whole_number(1, LARGEST_COUNT), metavar="COUNT", help="How many examples."
        ),
    ] = 100,
    mean: Annotated[bool, typer.Option("--mean", help="Means of p(x|z) in place of draws from it.")] = False,
    label: Annotated[
        int | None,
        typer.Option(
            "--label",
            parser=whole_number(0, LARGEST_COUNT),
            metavar="CLASS",
            help="Of a conditional model: draw this class, by its number; default: all of them in turn.",
        ),
    ] = None,
    seed: Annotated[int, seed_option("Seed of the draws.")] = 0,
    overwrite: Overwrite = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Draw examples from the model of a run into an npz file: z from its prior, then x from p(x|z).

    The array x has the shape of the run's images; labels are the classes that a conditional model drew them for.
    """
    from fastvi.evaluate import sample as draw_samples

    check_out(out, (".npz",), overwrite)
    console = make_console(soft_wrap=True)
    opened = open_run(run, device, threads)
    with one_line():
        drawn = draw_samples(opened.model, number, mean=mean, seed=seed, label=label)
    arrays = {"x": opened.images(drawn.x), "labels": drawn.labels}
    of_class = "" if label is None else f", class {label}"
    show_arrays(f"{number:,} {'means' if mean else 'samples'} of {run}{of_class}, seed {seed}", arrays, console)
    write_results({out: npz_bytes(arrays)}, console)
