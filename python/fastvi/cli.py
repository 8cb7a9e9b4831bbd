"""The command line: ``fastvi train``, ``evaluate``, what is taken out of a run, ``bench`` and ``info``."""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

import typer

from fastvi._terminal import CommandGroup
from fastvi.benchmarks import bench
from fastvi.commands.encode import encode, reconstruct
from fastvi.commands.evaluate import evaluate
from fastvi.commands.export import export
from fastvi.commands.info import info
from fastvi.commands.options import CommandWithOptions
from fastvi.commands.sample import sample
from fastvi.commands.score import score
from fastvi.commands.train import train

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # errors are whole lines then, not broken by the sides of a box
)
app.command("train", cls=CommandWithOptions)(train)
app.command("evaluate")(evaluate)
for _command in (sample, encode, reconstruct, score, export):
    app.command(_command.__name__)(_command)
app.command("bench")(bench)
app.command("info")(info)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fastvi {importlib.metadata.version('fastvi')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Variational inference in PyTorch: train, evaluate and time importance-weighted autoencoders."""


def main() -> None:
    """Run the command line."""
    app()
