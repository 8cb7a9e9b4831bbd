"""``fastvi export``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from fastvi._terminal import fail, make_console, reason
from fastvi.commands.run_outputs import Overwrite, Run, one_line, open_run, write_results
from fastvi.commands.shared import path

_FILES = ("encoder.pt2", "decoder.pt2", "encoder.onnx", "decoder.onnx")


def export(
    run: Run,
    out: Annotated[Path, path("Folder of the programs.")],
    onnx: Annotated[
        bool | None,
        typer.Option("--onnx/--no-onnx", help="Also as ONNX; default: where the extra onnx is installed."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Export encoder and decoder of a run as programs that run without fastvi: encoder.pt2, decoder.pt2, and ONNX.

    The encoder gives mean and logvar of q(z|x) for x of the shape (B, D), the decoder the mean of p(x|z) for z of the
    shape (B, Z), each for any B; with labels, (B,), behind where the model takes them.
    """
    import torch
    from rich.table import Table

    from fastvi._extras import missing
    from fastvi.evaluate import export as export_model
    from fastvi.training.files import check_writable

    console = make_console(soft_wrap=True)
    opened = open_run(run, "cpu", None)
    obstacles = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if onnx and obstacles:
        fail(missing(obstacles[0], "onnx", "--onnx"))
    present = [name for name in _FILES if (out / name).exists()]
    if present and not overwrite:
        fail(f"{out / present[0]} is there already: name another --out, or add --overwrite")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            check_writable(out / name)
    except OSError as error:
        fail(f"{reason(error)}: the programs cannot be written there")
    config = opened.config
    x = torch.zeros(1, config.shape.data_dim)
    with one_line():
        exported = export_model(opened.model, (x, torch.zeros(1, dtype=torch.int64)) if config.uses_labels else x)
        content = exported.content()
        if onnx or (onnx is None and not obstacles):
            content |= exported.content(onnx=True)
    table = Table("program", "bytes", title=f"programs of {run}")
    for name, each in content.items():
        table.add_row(name, f"{len(each):,}")
    console.print(table)
    for name, why in exported.missing.items():
        console.print(f"no {name}: {why}")
    if onnx is None and obstacles:
        console.print(f"no ONNX: {missing(obstacles[0], 'onnx', 'it')}")
    write_results({out / name: each for name, each in content.items()}, console)
