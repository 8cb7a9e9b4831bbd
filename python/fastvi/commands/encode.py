"""``fastvi encode`` and ``fastvi reconstruct``."""

from __future__ import annotations

from typing import Annotated

from fastvi._terminal import make_console
from fastvi.commands.run_outputs import (
    Data,
    Limit,
    OtherArray,
    Out,
    Overwrite,
    Run,
    Split,
    check_out,
    npz_bytes,
    one_line,
    open_run,
    run_examples,
    show_arrays,
    write_results,
)
from fastvi.commands.shared import DataDir, Device, Threads, count, seed_option


def encode(
    run: Run,
    out: Out,
    data: Data = None,
    array: OtherArray = None,
    split: Split = "test",
    limit: Limit = None,
    num_samples: Annotated[int, count("Samples of q(z|x) for each example.", least=0)] = 0,
    seed: Annotated[int, seed_option("Seed of the samples.")] = 0,
    overwrite: Overwrite = False,
    data_dir: DataDir = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Encode examples into an npz file: mean and logvar of q(z|x), (M, Z), samples where asked for, labels.

    The array samples is of the shape (K, M, Z); of several layers samples_1 is that of the layer over the data. Where
    q(z|x) has no mean in closed form, ask for samples.
    """
    from fastvi.evaluate import encode as encode_examples

    check_out(out, (".npz",), overwrite)
    console = make_console(soft_wrap=True)
    opened = open_run(run, device, threads)
    examples = run_examples(opened, data, array, data_dir, split, limit, console)
    with one_line():
        codes = encode_examples(opened.model, examples.x, num_samples=num_samples, seed=seed)
    arrays = codes.arrays() | {"labels": examples.labels, "index": examples.places}
    show_arrays(f"codes of {len(examples.places):,} examples by {run}", arrays, console)
    write_results({out: npz_bytes(arrays)}, console)


def reconstruct(
    run: Run,
    out: Out,
    data: Data = None,
    array: OtherArray = None,
    split: Split = "test",
    limit: Limit = None,
    overwrite: Overwrite = False,
    data_dir: DataDir = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Reconstruct examples into an npz file: x as the model saw them, reconstruction, labels.

    Images keep their shape: (M, height, width), or (M, channels, height, width).
    """
    from fastvi.evaluate import reconstruct as reconstruct_examples

    check_out(out, (".npz",), overwrite)
    console = make_console(soft_wrap=True)
    opened = open_run(run, device, threads)
    examples = run_examples(opened, data, array, data_dir, split, limit, console)
    with one_line():
        found = reconstruct_examples(opened.model, examples.x)
    arrays = {
        "x": opened.images(examples.rows),
        "reconstruction": opened.images(found),
        "labels": examples.labels,
        "index": examples.places,
    }
    show_arrays(f"reconstructions of {len(examples.places):,} examples by {run}", arrays, console)
    write_results({out: npz_bytes(arrays)}, console)
