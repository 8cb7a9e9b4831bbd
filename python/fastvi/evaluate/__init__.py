"""Evaluation of a trained model: L_K with K in the thousands by streaming, active units, effective sample size.

L_K and active units as in Burda, Grosse & Salakhutdinov 2016, sections 3 and 5; L_5000 is their estimate of log p(x).
"""

from fastvi.evaluate.figures import (
    LARGEST_BIAS,
    UNRELIABLE_SHARE,
    Evaluation,
    LossEvaluation,
    evaluate,
    evaluate_loss,
    evaluation_rows,
)
from fastvi.evaluate.streaming import ROWS_AT_A_TIME, StreamedBounds, stream_bounds
from fastvi.evaluate.units import ACTIVE_UNIT_THRESHOLD, active_units, active_units_of_layers

__all__ = [
    "ACTIVE_UNIT_THRESHOLD",
    "LARGEST_BIAS",
    "ROWS_AT_A_TIME",
    "UNRELIABLE_SHARE",
    "Evaluation",
    "LossEvaluation",
    "StreamedBounds",
    "active_units",
    "active_units_of_layers",
    "evaluate",
    "evaluate_loss",
    "evaluation_rows",
    "stream_bounds",
]
