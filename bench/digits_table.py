"""Print the table of docs/bounds/on-digits.md: every estimator trained on scikit-learn's digits by one command.

    python bench/digits_table.py

Each line is what ``fastvi train --threads 1`` with the options of its first cell gives after 200 epochs, and the time
of that command, in which the evaluation by 5,000 samples is. The whole takes half an hour on one core; ``--only dreg``
runs the lines that hold a word.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HIERARCHICAL, HAMILTONIAN = "--model hierarchical", "--model hamiltonian"
BELIEF_NETWORK, CATEGORICAL = "--model sigmoid-belief-network", "--model categorical-vae"
SCORE = "--objective score-function"
WAKE_SLEEP = "--objective reweighted-wake-sleep"
COMMANDS = [
    "--objective elbo",
    "--objective elbo --no-analytic-kl",
    "--objective elbo --warm-up-steps 1000",
    "--objective stl",
    "--objective iwae",
    "--objective iwae --backward-samples 1",
    "--objective dreg",
    "--objective miwae",
    "--objective piwae",
    "--objective ciwae",
    "--objective renyi",
    "--objective tvo",
    "--objective vimco",
    SCORE,
    WAKE_SLEEP,
    f"{HIERARCHICAL} --objective elbo --no-analytic-kl",
    f"{HIERARCHICAL} --objective stl",
    f"{HIERARCHICAL} --objective iwae",
    f"{HIERARCHICAL} --objective iwae --backward-samples 1",
    f"{HIERARCHICAL} --objective dreg",
    f"{HAMILTONIAN} --objective elbo --no-analytic-kl",
    f"{HAMILTONIAN} --objective stl",
    f"{HAMILTONIAN} --objective elbo --no-analytic-kl --no-reverse --mass unit --tempering quadratic",
    f"{BELIEF_NETWORK} --objective vimco",
    f"{BELIEF_NETWORK} --objective vimco --mean arithmetic",
    f"{BELIEF_NETWORK} {SCORE}",
    f"{BELIEF_NETWORK} {SCORE} --baseline control-variate",
    f"{BELIEF_NETWORK} {SCORE} --baseline network --baseline-dims 100",
    f"{BELIEF_NETWORK} {WAKE_SLEEP}",
    f"{BELIEF_NETWORK} {WAKE_SLEEP} --sleep-phi",
    f"{BELIEF_NETWORK} {WAKE_SLEEP} --no-wake-phi --sleep-phi",
    f"{BELIEF_NETWORK} --objective tvo",
    f"{CATEGORICAL} --objective vimco",
    f"{CATEGORICAL} {SCORE}",
    f"{CATEGORICAL} {WAKE_SLEEP}",
    f"{CATEGORICAL} --objective tvo",
    "--model general-vae --posterior full --objective dreg",
    "--model general-vae --prior vamp --objective dreg",
    "--model conditional-vae --objective dreg",
    "--model convolutional-vae --objective dreg",
]
HEAD = ["options of `fastvi train`", "ELBO", "L_5000", "CPU seconds", "seconds", "evaluation's"]


@dataclass(frozen=True)
class Line:
    """What one command gave: nats of the test images, and seconds; those of the evaluation are of the wall clock."""

    options: str
    elbo: float
    importance_weighted: float
    processor_seconds: float
    seconds: float
    evaluation_seconds: float

    def __str__(self) -> str:
        nats = f"{self.elbo:.2f}", f"{self.importance_weighted:.2f}"
        seconds = (f"{value:.0f}" for value in (self.processor_seconds, self.seconds, self.evaluation_seconds))
        return f"| {' | '.join((f'`{self.options}`', *nats, *seconds))} |"


def measure(options: str, more: list[str], folder: Path) -> Line:
    """Run one command in a process of its own; a bound that is not finite, or a command that fails, ends all."""
    command = [sys.executable, "-m", "fastvi", "train", "--threads", "1", "--no-progress", *shlex.split(options), *more]
    begun = time.perf_counter()
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen([*command, "--out", str(folder / "run")], stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"Error: {shlex.join(command)}:\n{(folder / 'output.txt').read_text()}")
    with (folder / "run" / "metrics.csv").open(newline="") as file:
        bounds = [float(row["bound"]) for row in csv.DictReader(file) if row["bound"]]
    found = json.loads((folder / "run" / "evaluation.json").read_text())
    bounds += [found["elbo"], found["importance_weighted"]]
    if not all(map(math.isfinite, bounds)):
        sys.exit(f"Error: {shlex.join(command)}: a bound that is not finite")
    return Line(options, *bounds[-2:], usage.ru_utime + usage.ru_stime, seconds, found["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="run the lines that hold this")
    parser.add_argument("--more", default="", help="options that every command takes besides, such as '--epochs 2'")
    options = parser.parse_args()
    chosen = [command for command in COMMANDS if options.only in command]
    if not chosen:
        sys.exit(f"Error: no line holds {options.only!r}")
    for cells in (HEAD, ["---"] * len(HEAD)):
        print(f"| {' | '.join(cells)} |", flush=True)
    for command in chosen:
        with tempfile.TemporaryDirectory() as folder:
            print(measure(command, shlex.split(options.more), Path(folder)), flush=True)


if __name__ == "__main__":
    main()
