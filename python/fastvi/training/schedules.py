"""The learning rate of a step, as a function of the step alone, so that a resumed run needs no state for it."""

from __future__ import annotations

import math

SCHEDULES = ("constant", "cosine", "staged")
_STAGES = 8
_USUAL_ENDS = {"constant": 1.0, "cosine": 0.0, "staged": 0.1}


def rate_factor(
    schedule: str, step: int, total_steps: float, warm_up_steps: int = 0, end: float | None = None
) -> float:
    """Return the learning rate of a step as a fraction of the run's ``learning_rate``.

    Over the warm-up it grows linearly, (step + 1) / warm_up_steps. What follows is, at the fraction t of the steps
    after the warm-up:

    - ``"constant"``: 1.
    - ``"cosine"``: end + (1 - end) (1 + cos(pi t)) / 2, of Loshchilov & Hutter 2017 without restarts.
    - ``"staged"``: eight stages, i = 0, ..., 7, of lengths in the ratios 3^i, with end^(i / 7): the schedule of Burda,
      Grosse & Salakhutdinov 2016, who take 3^i passes at 0.001 * 10^(-i / 7), which is ``end`` 0.1 over 3,280 epochs.

    Parameters
    ----------
    schedule
        One of `SCHEDULES`.
    step
        Steps before this one.
    total_steps
        Of the whole run; not used by ``"constant"``.
    warm_up_steps
        Length of the warm-up.
    end
        Factor at the end; None: 0 for ``"cosine"``, 0.1 for ``"staged"``.

    Examples
    --------
    >>> rate_factor("cosine", 50, 100)
    0.5
    >>> rate_factor("constant", 0, 100, warm_up_steps=4)
    0.25
    """
    if step < warm_up_steps:
        return (step + 1) / warm_up_steps
    if schedule == "constant":
        return 1.0
    end = _USUAL_ENDS[schedule] if end is None else end
    done, steps = step - warm_up_steps, max(1.0, total_steps - warm_up_steps)
    if schedule == "cosine":
        return end + (1.0 - end) * (1.0 + math.cos(math.pi * min(1.0, done / steps))) / 2.0
    stage = 0
    # After the stages 0 to i, the part (3^(i + 1) - 1) / (3^8 - 1) of the steps is behind: compared without rounding.
    while stage < _STAGES - 1 and done * (3**_STAGES - 1) >= steps * (3 ** (stage + 1) - 1):
        stage += 1
    return float(end ** (stage / (_STAGES - 1)))
