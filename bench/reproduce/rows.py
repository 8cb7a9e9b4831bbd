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
HVI = f"{SAMPLED_ELBO} --precision 32-true --learning-rate 0.002 --seed 1"
"""In float32, which is faster for derivatives of a gradient. Without a leapfrog it is the VAE of the same decoder."""
OF_LEAPFROGS = "--num-samples 1000"
"""Of the evaluation of these, which moves each sample by leapfrogs, too."""
TWO_LAYERS = "--model hierarchical --learning-rate 0.002"
OF_64 = "--learning-rate 0.001 --epochs 25 --seed 1"
SBN = (
    "--model sigmoid-belief-network --layer-dims 200,200,200 --data mnist-binarized --binarization none "
    "--precision 32-true"
)
FASHION = "--data fashion-mnist"


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
    evaluation
        Options of ``fastvi evaluate`` in place of its usual 5,000 samples.
    """

    name: str
    options: str
    paper: float | None = None
    best: float | None = None
    start_from: str | None = None
    ais: bool = False
    evaluation: str = ""


def _one_layer(name: str, options: str, *values: float | None, start_from: str | None = None) -> Row:
    return Row(name, options, *values, start_from=start_from, ais=True)


def _fashion(name: str, options: str, start_from: str | None = None) -> Row:
    return Row(f"fashion-{name}", f"{FASHION} {options}", start_from=start_from)


ROWS = {
    row.name: row
    for row in (
        _one_layer("vae-k1", "--objective elbo --epochs 1000 --seed 1", 86.76, 87.78),
        _one_layer("iwae-k5", "--objective iwae --num-samples 5 --epochs 600 --seed 1", 85.54, 85.46),
        _one_layer(
            "iwae-k5-continued",
            "--objective iwae --num-samples 5 --learning-rate 0.001 --epochs 200 --seed 2",
            85.54,
            85.46,
            start_from="iwae-k5",
        ),
        _one_layer(
            "iwae-k50",
            "--objective iwae --num-samples 50 --backward-samples 5 --learning-rate 0.001 --epochs 100 --seed 1",
            84.78,
            84.59,
            start_from="iwae-k5-continued",
        ),
        _one_layer("dreg-k5", "--objective dreg --num-samples 5 --epochs 500 --seed 1"),
        Row("hvi-0", f"--model vae {HVI} --epochs 60", evaluation=OF_LEAPFROGS),
        Row("hvi-0-as-long-as-1", f"--model vae {HVI} --epochs 150", evaluation=OF_LEAPFROGS),
        Row("hvi-0-as-long-as-4", f"--model vae {HVI} --epochs 275", evaluation=OF_LEAPFROGS),
        Row("hvi-1", f"--model hamiltonian --num-leapfrogs 1 {HVI} --epochs 60", evaluation=OF_LEAPFROGS),
        Row("hvi-4", f"--model hamiltonian --num-leapfrogs 4 {HVI} --epochs 60", 86.40, evaluation=OF_LEAPFROGS),
        Row("two-layers-iwae-k5", f"{TWO_LAYERS} --objective iwae --num-samples 5 --epochs 200 --seed 1", 83.89, 83.48),
        Row("two-layers-vae-k1", f"{TWO_LAYERS} {SAMPLED_ELBO} --epochs 900 --seed 1", 85.33, 84.83),
        Row(
            "two-layers-iwae-k5-from-vae",
            f"{TWO_LAYERS} --objective iwae --num-samples 5 --epochs 300 --seed 2",
            83.89,
            83.48,
            start_from="two-layers-vae-k1",
        ),
        Row(
            "two-layers-iwae-k5-continued",
            f"{TWO_LAYERS} --objective iwae --num-samples 5 --learning-rate 0.001 --epochs 200 --seed 3",
            83.89,
            83.48,
            start_from="two-layers-iwae-k5-from-vae",
        ),
        Row("two-layers-vae-k5", f"{TWO_LAYERS} {SAMPLED_ELBO} --num-samples 5 --epochs 200 --seed 1", 85.01),
        Row("vae-k5", f"{SAMPLED_ELBO} --num-samples 5 --epochs 500 --seed 1", 86.47),
        Row("miwae", f"--objective miwae --num-bounds 8 --num-samples 8 {OF_64}", 84.97, 85.09, "iwae-k5-continued"),
        Row("piwae", f"--objective piwae --num-bounds 8 --num-samples 8 {OF_64}", 84.46, 84.58, "iwae-k5-continued"),
        Row("ciwae", f"--objective ciwae --num-samples 64 --beta 0.05 {OF_64}", 84.57, 84.74, "iwae-k5-continued"),
        Row("sbn-vimco-k5", f"{SBN} --objective vimco --num-samples 5 --epochs 100 --seed 1"),
        _fashion("vae-k1", "--objective elbo --epochs 500 --seed 1"),
        _fashion("iwae-k5", "--objective iwae --num-samples 5 --epochs 300 --seed 1"),
        _fashion(
            "iwae-k50",
            "--objective iwae --num-samples 50 --backward-samples 5 --learning-rate 0.001 --epochs 50 --seed 1",
            "fashion-iwae-k5",
        ),
        _fashion("dreg-k5", "--objective dreg --num-samples 5 --epochs 300 --seed 1"),
    )
}
