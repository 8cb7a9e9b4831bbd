"""Print the table of docs/reproduction.md from the figures in bench/reproduce/results.

python bench/reproduce/table.py
"""

from __future__ import annotations

import csv
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
    first, last = (
        [result[name] for name in names]
        for names in (("seed", "steps", "minutes", "elbo"), ("standard_error", "active_units"))
    )
    return [f"`{row.name}`", *first, estimate, *last, ais, result["l_5000_of_ais_images"] or "-", *known]


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
