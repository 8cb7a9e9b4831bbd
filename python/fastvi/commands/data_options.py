"""The options of ``fastvi train`` that say how data of the user's own are read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastvi._terminal import LARGEST_COUNT, fail
from fastvi.commands.options import given_options
from fastvi.commands.shared import is_given, number

if TYPE_CHECKING:
    from fastvi.data import DataSource

_OWN_DATA_OPTIONS = ("test_split", "labels_from", "array", "image_size", "colour", "divide_by", "standardize")


def _image_size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]+)x([0-9]+)", text.lower())
    sizes = (int(found[1]), int(found[2])) if found else (0, 0)
    if not all(0 < size <= LARGEST_COUNT for size in sizes):
        raise typer.BadParameter(f"got {text[:40]!r}, expected HEIGHTxWIDTH such as 28x28")
    return sizes


TestSplit = Annotated[
    str | None,
    typer.Option(
        metavar="SPLIT",
        help="Of your own data: what part tests, such as 0.1, how many rows, or the path of other rows. Default: what "
        "the file calls test, else a tenth, at most 10,000.",
    ),
]
LabelsFrom = Annotated[
    str | None,
    typer.Option(
        metavar="WHERE",
        help="Of your own data: the array (npz, pt) or column (csv, parquet) of the labels, 'folders' for images, or "
        "the path of a file of labels.",
    ),
]
Array = Annotated[str | None, typer.Option(metavar="NAME", help="Of an npz or pt file: the array of the rows.")]
ImageSize = Annotated[
    Any,
    typer.Option(
        parser=_image_size,
        metavar="HxW",
        help="Height and width to which images of a folder are scaled, or that rows of an array have.",
    ),
]
Colour = Annotated[bool | None, typer.Option("--colour/--grey", help="Of a folder of images; default: as they are.")]
DivideBy = Annotated[Any, number("Of your own data: divide the values by it; default: 255 for bytes.")]
Standardize = Annotated[
    bool, typer.Option("--standardize", help="Of your own data: bring each column to mean 0 and deviation 1.")
]


def own_source(context: typer.Context, data: str) -> DataSource | None:
    """Return how the data at the path ``data`` are read; None where ``data`` is the name of a data set.

    Options of a path that come with a name end the command.
    """
    from fastvi.data import DATASET_NAMES, DataSource

    chosen = context.params
    if data in DATASET_NAMES or not _is_path(data):
        for name in _OWN_DATA_OPTIONS:
            if is_given(context, name):
                fail(f"--{name.replace('_', '-')} is for data of your own: --data PATH of a file or a folder")
        return None
    if is_given(context, "data_dir") or chosen["download"]:
        fail(f"--data {data} names a path: leave out --data-dir and --download")
    likelihood = given_options(context).get("likelihood")
    return DataSource(data, **{name: chosen[name] for name in _OWN_DATA_OPTIONS}, likelihood=likelihood)


def refuse_own_options(context: typer.Context) -> None:
    """End the command where options say how a run's data are read, which it remembers."""
    for name in _OWN_DATA_OPTIONS:
        if is_given(context, name):
            fail(f"--{name.replace('_', '-')} is remembered by the run: leave it out, or start anew")


def _is_path(data: str) -> bool:
    """Whether a text looks like a path, there or not, and not like the name of a data set."""
    from fastvi.data.reading import FILE_SUFFIXES

    try:
        return "/" in data or Path(data).suffix.lower() in FILE_SUFFIXES or Path(data).exists()
    except (OSError, ValueError):  # a name that is too long
        return False


def data_name(data: str, source: DataSource | None) -> str:
    """Return the name that a run gives its data: that of the file or the folder."""
    return data if source is None else Path(data).resolve().name or "data"
