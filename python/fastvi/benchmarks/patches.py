"""Patches of the two photographs that scikit-learn ships, and a dictionary that it learns of them."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

_NOISE = 10.0
"""Added to the variance of a patch, of grey values from 0 to 255, so that flat patches stay small."""
_LEARNING_PATCHES = 5000


@cache
def photograph_patches(count: int, side: int) -> Array:
    """Patches of ``side`` x ``side`` in grey, (count, side^2), of mean 0, and of variance 1 but for flat ones.

    Half of them from each photograph, at random places; in a random order, the same each time.
    """
    from sklearn.datasets import load_sample_images
    from sklearn.feature_extraction.image import extract_patches_2d

    greys = [image.mean(-1) for image in load_sample_images().images]
    counts = (count - count // 2, count // 2)
    found = [
        extract_patches_2d(grey, (side, side), max_patches=number, random_state=0)
        for grey, number in zip(greys, counts, strict=True)
    ]
    x: Array = np.concatenate(found).reshape(count, side * side)
    x = np.random.default_rng(0).permutation(x)
    x -= x.mean(1, keepdims=True)
    x /= np.sqrt(x.var(1, keepdims=True) + _NOISE)
    return x


@cache
def learned_dictionary(atoms: int, side: int, alpha: float) -> Array:
    """Atoms of length 1, (atoms, side^2), learned by one pass of scikit-learn's mini-batches over some patches."""
    from sklearn.decomposition import MiniBatchDictionaryLearning

    learning = MiniBatchDictionaryLearning(
        atoms, alpha=alpha, batch_size=250, max_iter=1, fit_algorithm="cd", random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that codes of the first atoms did not converge
        components: Array = learning.fit(photograph_patches(_LEARNING_PATCHES, side)).components_
    components /= np.linalg.norm(components, axis=1, keepdims=True)
    return components
