"""What evaluations share: examples in batches of a fixed size, and figures as JSON can hold them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from fastvi._examples import select_examples

IMAGES_AT_A_TIME = 128


def batches(images: Any, count: int, at_a_time: int = IMAGES_AT_A_TIME) -> Iterator[Any]:
    """The examples, so many at a time: noise that depends on the place within a batch depends on that of the whole."""
    for start in range(0, count, at_a_time):
        yield select_examples(images, slice(start, start + at_a_time))


def json_figures(figures: Any) -> dict[str, Any]:
    """The fields of a dataclass by name; None also for what is infinite or NaN."""
    return _finite(dataclasses.asdict(figures))


def _finite(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures by name, in which None stands for what is infinite or NaN."""
    return {name: _finite(value) if isinstance(value, dict) else _number(value) for name, value in figures.items()}


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
