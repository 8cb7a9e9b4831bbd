"""Print the table of docs/reproduction.md from the figures in bench/reproduce/results.

python bench/reproduce/table.py
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

from rows import ROWS

RESULTS = Path(__file__).parent / "results"
HEAD = [
    "row",
    "seed",
    "steps",
    "minutes",
    "ELBO",
    "L_5000",
    "standard error",
    "active",
    "AIS of 100",
    "L_5000 of these",
]
HEAD += ["paper", "best other"]


def line(result: dict[str, str]) -> list[str]:
    """The cells of one run; a dash stands for what was not measured or is not known."""
    row = ROWS[result["row"]]
    ais = f"{result['ais']} ± {result['ais_annealing_error']}" if result["ais"] else "-"
    known = [f"{-value:.2f}" if value is not None else "-" for value in (row.paper, row.best)]
    fewer = f" (L_{result['num_samples']})" if result["num_samples"] != "5000" else ""
    estimate = f"{result['importance_weighted']}{fewer}"
    training = [result[name] for name in ("seed", "steps", "minutes", "elbo")]
    active = json.loads(result["active_units"])  # of several layers a list
    units = " + ".join(map(str, active)) if isinstance(active, list) else str(active)
    annealed = [ais, result["l_5000_of_ais_images"] or "-"]
    return [f"`{row.name}`", *training, estimate, result["standard_error"], units, *annealed, *known]


def main() -> None:
    for cells in (HEAD, ["---"] * len(HEAD)):
        print(f"| {' | '.join(cells)} |")
    order = list(ROWS)
    results = []
    for path in RESULTS.glob("*-seed*.csv"):
        with path.open(newline="") as file:
            results += [result for result in csv.DictReader(file) if result["row"] in ROWS]
    for result in sorted(results, key=lambda result: (order.index(result["row"]), int(result["seed"]))):
        print(f"| {' | '.join(line(result))} |")


if __name__ == "__main__":
    main()
