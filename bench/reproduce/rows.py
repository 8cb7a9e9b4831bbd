"""The rows of the table in docs/reproduction.md: which command trains each, and what the papers have.

Settings were chosen on 5,000 training images that were held out, never on test images; every run of the table trains on
all 60,000. Seeds were fixed before the first run.
"""

from __future__ import annotations

from dataclasses import dataclass

RECIPE = (
    "--data mnist --binarization dynamic --precision bf16-mixed --batch-size 200 --learning-rate 0.003 "
    "--schedule cosine --schedule-warm-up 1000 --schedule-end 0.01 --adam-epsilon 1e-6"
)
"""Options of every row; those of the row itself come after them and win."""
SAMPLED_ELBO = "--objective elbo --no-analytic-kl"
HVI = f"--model hamiltonian {SAMPLED_ELBO}"
TWO_LAYERS = "--model hierarchical"


@dataclass(frozen=True)
class Row:
    """One trained model of the table.

    Attributes
    ----------
    name
        By which the command knows it, and the name of its folder.
    options
        Of ``fastvi train``, beside those of `RECIPE`.
    paper, best
        L_5000 of the paper, and of the best independent re-implementation of the same model; None where none is known.
    start_from
        Row with whose parameters this one begins.
    ais
        Whether annealed importance sampling of 100 test images is run, too.
    """

    name: str
    options: str
    paper: float | None = None
    best: float | None = None
    start_from: str | None = None
    ais: bool = True


ROWS = {
    row.name: row
    for row in (
        Row("vae-k1", "--objective elbo --epochs 1000 --seed 1", 86.76, 87.78),
        Row("iwae-k5", "--objective iwae --num-samples 5 --epochs 600 --seed 1", 85.54, 85.46),
        Row(
            "iwae-k5-continued",
            "--objective iwae --num-samples 5 --learning-rate 0.001 --epochs 200 --seed 2",
            85.54,
            85.46,
            start_from="iwae-k5",
        ),
        Row(
            "iwae-k50",
            "--objective iwae --num-samples 50 --backward-samples 5 --learning-rate 0.001 --epochs 100 --seed 1",
            84.78,
            84.59,
            start_from="iwae-k5-continued",
        ),
        Row("dreg-k5", "--objective dreg --num-samples 5 --epochs 500 --seed 1"),
        *(
            Row(f"hvi-{steps}", f"{HVI} --num-leapfrogs {steps} --epochs 100 --seed 1", paper)
            for steps, paper in ((0, 88.95), (1, 88.08), (4, 86.40))
        ),
        Row("two-layers-iwae-k5", f"{TWO_LAYERS} --objective iwae --num-samples 5 --epochs 300 --seed 1", 83.89, 83.48),
        Row("two-layers-vae-k1", f"{TWO_LAYERS} {SAMPLED_ELBO} --epochs 500 --seed 1", 85.33, 84.83),
    )
}
