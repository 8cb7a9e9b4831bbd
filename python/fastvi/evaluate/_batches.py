"""Examples in batches of a fixed size, so that an image's figures do not depend on how many there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastvi._examples import select_examples

IMAGES_AT_A_TIME = 128


def batches(images: Any, count: int) -> Iterator[Any]:
    for start in range(0, count, IMAGES_AT_A_TIME):
        yield select_examples(images, slice(start, start + IMAGES_AT_A_TIME))
