"""``fastvi score``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastvi._terminal import make_console
from fastvi.commands.run_outputs import (
    Data,
    Examples,
    Limit,
    OtherArray,
    Out,
    Overwrite,
    Run,
    Split,
    check_out,
    csv_bytes,
    npz_bytes,
    one_line,
    open_run,
    run_examples,
    write_results,
)
from fastvi.commands.shared import DataDir, Device, ShowProgress, Threads, count, seed_option

if TYPE_CHECKING:
    from rich.console import Console

    from fastvi.evaluate import Scores

_SHOWN = 10
_QUANTILES = {"lowest": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "highest": 1.0}


def score(
    run: Run,
    out: Out,
    data: Data = None,
    array: OtherArray = None,
    split: Split = "test",
    limit: Limit = None,
    num_samples: Annotated[int, count("K, samples for each example.")] = 1000,
    chunk: Annotated[int | None, count("Samples held at a time; default: about 4,096 decoder rows.")] = None,
    seed: Annotated[int | None, seed_option("Seed of the samples; default: the run's.")] = None,
    overwrite: Overwrite = False,
    data_dir: DataDir = None,
    device: Device = "auto",
    threads: Threads = None,
    progress: ShowProgress = True,
) -> None:
    """Estimate log p(x) of each example by K samples, into a csv or npz file, and show the lowest: the anomalies.

    Columns: index in the data, label, log_prob (L_K in nats), its standard_error, the elbo, effective_sample_size of K,
    and pareto_k of the weights' tail. A standard error is left out where the tail is too heavy to tell one.
    """
    from rich.progress import Progress

    from fastvi.evaluate import score as score_examples

    check_out(out, (".csv", ".npz"), overwrite)
    console = make_console(soft_wrap=True)
    opened = open_run(run, device, threads)
    examples = run_examples(opened, data, array, data_dir, split, limit, console)
    rows = num_samples * len(examples.places)
    hidden = not (progress and console.is_terminal)
    with one_line(), Progress(console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task(f"scoring with K = {num_samples}", total=rows)
        scores = score_examples(
            opened.model,
            examples.x,
            num_samples=num_samples,
            chunk=chunk,
            seed=opened.config.seed if seed is None else seed,
            on_rows=lambda done: bar.advance(task, done),
        )
    columns: dict[str, Any] = {"index": examples.places, "label": examples.labels} | scores.arrays()
    _show(scores, examples, f"log p(x) of {len(examples.places):,} examples by {run}, K = {num_samples:,}", console)
    if out.suffix.lower() == ".csv":
        write_results({out: csv_bytes(columns)}, console)
    else:
        import torch

        write_results({out: npz_bytes(columns | {"num_samples": torch.tensor(num_samples)})}, console)


def _show(scores: Scores, examples: Examples, title: str, console: Console) -> None:
    import torch
    from rich.table import Table

    values = scores.log_prob.double().cpu()
    table = Table("lowest", "index", "label", "log p(x), nats", "standard error", title=title)
    order = values.argsort(stable=True)[:_SHOWN]
    for rank, place in enumerate(order.tolist(), 1):
        error = float(scores.standard_error[place])
        table.add_row(
            str(rank),
            str(int(examples.places[place])),
            "" if examples.labels is None else str(int(examples.labels[place])),
            f"{float(values[place]):.2f}",
            "not told" if error != error else f"{error:.3f}",
        )
    console.print(table)
    found = torch.quantile(values, torch.tensor(list(_QUANTILES.values()), dtype=values.dtype)).tolist()
    quantiles = ", ".join(f"{name} {value:.2f}" for name, value in zip(_QUANTILES, found, strict=True))
    console.print(f"mean {float(values.mean()):.2f}; {quantiles}")
    untold = int(scores.standard_error.isnan().sum())
    if untold:
        why = "K is 1" if scores.num_samples == 1 else "the weights' tail is too heavy: there L_K may be far too low"
        console.print(f"{untold:,} of {len(values):,} examples have no standard error: {why}")
