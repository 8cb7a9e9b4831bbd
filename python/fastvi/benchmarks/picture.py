"""The ratios of a benchmark run as a picture of bars."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastvi._extras import require_extra
from fastvi.benchmarks.results import FASTVI, RATIOS, Result, in_graph
from fastvi.training.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_obstacle(path: Path) -> str | None:
    """Why `write_plot` could not draw what ``path`` is to hold; None where it can."""
    try:
        figure = require_extra("matplotlib.figure", "bench", "a picture").Figure()
        figure.suptitle("takes fonts too")
        _drawn(figure, path)
    except ImportError as error:
        return " ".join(str(error).split())
    except (OSError, ValueError, RuntimeError) as error:
        return f"matplotlib cannot draw it ({error})"
    return None


def write_plot(path: Path, results: Sequence[Result]) -> None:
    """Draw, for each number of threads, how many times faster fastvi is than the other providers."""
    from matplotlib.figure import Figure

    thread_counts = list(dict.fromkeys(result.threads for result in results))
    compared = [pair for pair in RATIOS if pair[0] not in (FASTVI, in_graph(FASTVI))]  # without the floor
    pairs = [pair for pair in compared if any(result.ratio(*pair) is not None for result in results)]
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
    figure.suptitle("time of the other / time of fastvi")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    write_whole(path, _drawn(figure, path))


def _drawn(figure: Figure, path: Path) -> bytes:
    """Return the picture in the format that the file's name ends in, PNG without an ending."""
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format=path.suffix[1:].lower() or "png")
    return picture.getvalue()
