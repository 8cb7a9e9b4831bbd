"""Train and evaluate one row of docs/reproduction.md, or go on with it where it was stopped.

    python bench/reproduce/run.py vae-k1 --out runs/reproduce --data-dir DATA

trains by ``fastvi train`` on one thread, evaluates L_5000 on all 10,000 test images and for some rows anneals 100 of
them, both by ``fastvi evaluate``, and puts the figures into bench/reproduce/results, which is part of the project. A
row that needs the parameters of another one says so when that has not been trained. ``--list`` shows the rows.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from rows import RECIPE, ROWS, Row

RESULTS = Path(__file__).parent / "results"
IMAGES = 10_000
AIS = "--ais --ais-temperatures 1000 --ais-chains 16 --ais-leapfrogs 10 --ais-images 100"


def fastvi(*words: str) -> None:
    """Run a command of fastvi; its failure ends this one."""
    command = [sys.executable, "-m", "fastvi", *words]
    print("+ fastvi", shlex.join(words), flush=True)
    status = subprocess.run(command, check=False).returncode
    if status != 0:
        sys.exit(status)


def train(row: Row, out: Path, threads: str, data: list[str]) -> Path:
    """Train a row, or go on with its run."""
    folder = out / row.name
    shared = ["--threads", threads, "--no-progress", "--no-evaluate", "--logger", "csv"]
    if (folder / "checkpoints" / "last.ckpt").exists():
        go_on(folder, *shared, *data)
        return folder
    options = [*shlex.split(RECIPE), *shlex.split(row.options)]
    if row.start_from is not None:
        before = out / row.start_from
        if not before.is_dir():
            sys.exit(f"Error: {row.name} begins with the parameters of {row.start_from}: run that row first")
        options += ["--start-from", str(before)]
    fastvi("train", "--out", str(folder), "--overwrite", *options, *shared, *data)
    return folder


def go_on(folder: Path, *options: str) -> None:
    """Train a run to its end, unless it is there."""
    config = json.loads((folder / "config.json").read_text())
    if int(epochs_of(folder)[-1]["epoch"]) < config["epochs"]:
        fastvi("train", "--resume", str(folder), *options)


def epochs_of(folder: Path) -> list[dict[str, str]]:
    """The figures of each epoch of a run."""
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def machine() -> str:
    """What the figures were made with."""
    return f"{_processor()}, torch {torch.__version__}"


def write_row(path: Path, row: dict[str, Any]) -> None:
    """Write figures as a CSV file of one row, whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    with (temporary := path.with_suffix(".tmp")).open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)
    temporary.replace(path)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def figures(row: Row, folder: Path) -> dict[str, Any]:
    """What the files of a run tell of it, for the table."""
    epochs = epochs_of(folder)
    config = json.loads((folder / "config.json").read_text())
    found = json.loads((folder / "evaluation.json").read_text())
    annealed = [json.loads(path.read_text()) for path in sorted(folder.glob("ais-*.json"))]
    return {
        "row": row.name,
        "options": f"{RECIPE} {row.options}",
        "start_from": row.start_from or "",
        "seed": config["seed"],
        "steps": epochs[-1]["step"],
        "epochs": epochs[-1]["epoch"],
        "minutes": f"{sum(float(epoch['seconds']) for epoch in epochs) / 60:.1f}",
        "training_bound": f"{float(epochs[-1]['bound']):.3f}",
        "elbo": f"{found['elbo']:.3f}",
        "num_samples": found["num_samples"],
        "importance_weighted": f"{found['importance_weighted']:.3f}",
        "standard_error": f"{found['standard_error']:.3f}",
        "images": found["images"],
        "active_units": json.dumps(found["active_units"]),
        "effective_sample_size": f"{found['effective_sample_size']:.1f}",
        "pareto_k": f"{found['pareto_k']:.2f}",
        "unreliable_images": found["unreliable_images"],
        "ais": f"{annealed[0]['log_evidence']:.3f}" if annealed else "",
        "ais_standard_error": f"{annealed[0]['standard_error']:.3f}" if annealed else "",
        "ais_annealing_error": f"{annealed[0]['annealing_error']:.3f}" if annealed else "",
        "l_5000_of_ais_images": f"{annealed[0]['importance_weighted']:.3f}" if annealed else "",
        "machine": machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", nargs="?", choices=list(ROWS), help="which row")
    parser.add_argument("--list", action="store_true", help="show the rows and the commands that train them")
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"), help="folder of the runs")
    parser.add_argument("--data-dir", help="folder of MNIST's idx files; default: that of FASTVI_DATA")
    parser.add_argument("--threads", default="1", help="threads of training and evaluation")
    chosen = parser.parse_args()
    if chosen.list or chosen.row is None:
        for row in ROWS.values():
            print(f"{row.name}: fastvi train {RECIPE} {row.options}{f', from {row.start_from}' * bool(row.start_from)}")
        return
    row = ROWS[chosen.row]
    data = ["--data-dir", chosen.data_dir] if chosen.data_dir else []
    folder = train(row, chosen.out, chosen.threads, data)
    if not (folder / "evaluation.json").exists() or (row.ais and not list(folder.glob("ais-*.json"))):
        options = [*shlex.split(row.evaluation), *(shlex.split(AIS) if row.ais else [])]
        shared = ["--threads", chosen.threads, "--no-progress", *data]
        fastvi("evaluate", str(folder), "--limit", str(IMAGES), *options, *shared)
    made = figures(row, folder)
    path = RESULTS / f"{row.name}-seed{made['seed']}.csv"
    write_row(path, made)
    print(f"{path}: L_{made['num_samples']} {made['importance_weighted']} +- {made['standard_error']}")


if __name__ == "__main__":
    main()
