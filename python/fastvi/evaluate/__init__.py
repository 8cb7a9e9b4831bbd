"""What a trained model can do, and how well: L_K by streaming, annealing, active units, samples, codes, scores.

L_K and active units as in Burda, Grosse & Salakhutdinov 2016, sections 3 and 5; L_5000 is their estimate of log p(x).
"""

from fastvi.evaluate.annealing import (
    AnnealedEvaluation,
    annealed_weights,
    annealing_steps,
    evaluate_by_annealing,
)
from fastvi.evaluate.decoding import analogies, manifold, styles
from fastvi.evaluate.exporting import Exported, export
from fastvi.evaluate.figures import (
    LARGEST_BIAS,
    UNRELIABLE_SHARE,
    Evaluation,
    LossEvaluation,
    evaluate,
    evaluate_loss,
    evaluation_rows,
)
from fastvi.evaluate.generating import Codes, Samples, encode, reconstruct, sample
from fastvi.evaluate.latents import STARTS
from fastvi.evaluate.scoring import Scores, score
from fastvi.evaluate.streaming import ROWS_AT_A_TIME, StreamedBounds, stream_bounds
from fastvi.evaluate.units import ACTIVE_UNIT_THRESHOLD, active_units, active_units_of_layers
from fastvi.mcmc.paths import SCHEDULES

__all__ = [
    "ACTIVE_UNIT_THRESHOLD",
    "LARGEST_BIAS",
    "ROWS_AT_A_TIME",
    "SCHEDULES",
    "STARTS",
    "UNRELIABLE_SHARE",
    "AnnealedEvaluation",
    "Codes",
    "Evaluation",
    "Exported",
    "LossEvaluation",
    "Samples",
    "Scores",
    "StreamedBounds",
    "active_units",
    "active_units_of_layers",
    "analogies",
    "annealed_weights",
    "annealing_steps",
    "encode",
    "evaluate",
    "evaluate_by_annealing",
    "evaluate_loss",
    "evaluation_rows",
    "export",
    "manifold",
    "reconstruct",
    "sample",
    "score",
    "stream_bounds",
    "styles",
]
