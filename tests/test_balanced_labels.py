"""Class-balanced draws of labels: exact counts, pure functions of their arguments, and what is wrong with them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from fastvi.data import balanced_labels

LABELS = torch.tensor([2, 0, 1, -1, 0, 1, 2, 0, 1, 2, -1, 0, 0, 5, 5, 5, 5, 2, 1, 0])
"""Classes 0, 1, 2 and 5 with 6, 4, 4 and 4 examples, and two examples without a label."""


@pytest.mark.parametrize("count", [4, 8, 12, 16])
@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_every_class_has_the_same_number(count: int, seed: int) -> None:
    chosen = balanced_labels(LABELS, count, seed)
    assert (chosen.shape, chosen.dtype) == ((count,), torch.int64)
    assert torch.equal(chosen, chosen.unique())  # in increasing order, none of them twice
    classes, sizes = LABELS[chosen].unique(return_counts=True)
    assert classes.tolist() == [0, 1, 2, 5]
    assert set(sizes.tolist()) == {count // 4}


def test_a_remainder_is_spread_over_classes_that_the_seed_draws() -> None:
    larger = set()
    for seed in range(40):
        classes, sizes = LABELS[balanced_labels(LABELS, 9, seed)].unique(return_counts=True)
        assert sorted(sizes.tolist()) == [2, 2, 2, 3]
        larger.add(int(classes[sizes.argmax()]))
    assert larger == {0, 1, 2, 5}  # each is missed with probability 0.75^40 = 1e-5, and the seeds are fixed


def test_a_draw_is_a_function_of_labels_count_and_seed() -> None:
    torch.manual_seed(1)
    first = balanced_labels(LABELS, 8, 3)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(first, balanced_labels(LABELS.clone(), 8, 3))
    assert torch.equal(state, torch.get_rng_state())
    assert len({tuple(balanced_labels(LABELS, 8, seed).tolist()) for seed in range(20)}) > 15
    for same in (LABELS.numpy(), LABELS.tolist(), LABELS.to(torch.int32), np.asarray(LABELS, dtype=np.int8)):
        assert torch.equal(first, balanced_labels(same, 8, 3))


def test_fewer_labels_are_among_more_of_the_same_seed() -> None:
    for seed in range(5):
        draws = [set(balanced_labels(LABELS, count, seed).tolist()) for count in range(4, 17)]
        assert all(fewer < more for fewer, more in pairwise(draws))


def test_each_example_of_a_class_is_drawn_as_often() -> None:
    """Two of six examples in each draw: of 1200 draws an example is in 400 but for 16, the binomial's deviation."""
    drawn = torch.cat([balanced_labels(LABELS, 8, seed) for seed in range(1200)]).bincount(minlength=len(LABELS))
    assert drawn[LABELS < 0].tolist() == [0, 0]
    deviation = (1200 * (1 / 3) * (2 / 3)) ** 0.5
    assert (drawn[LABELS == 0] - 400).abs().max() < 4 * deviation
    assert (drawn[LABELS > 0] - 600).abs().max() < 4 * (1200 / 4) ** 0.5


def test_other_labels_without_a_class_change_nothing() -> None:
    """Examples without a label may be appended: those drawn stay."""
    longer = torch.cat([LABELS, torch.full((7,), -1)])
    assert torch.equal(balanced_labels(LABELS, 12, 4), balanced_labels(longer, 12, 4))


def test_too_many_labels_are_told_how_many_are_possible() -> None:
    """That many can be drawn by the seed, and one more cannot; the class with the fewest is named."""
    labels = torch.tensor([0] * 9 + [1] * 5 + [2] * 4 + [3] * 5)
    found = set()
    for seed in range(40):
        with pytest.raises(ValueError, match=r"class 2 has 4 .* (\d+) are possible") as error:
            balanced_labels(labels, 23, seed)
        possible = int(str(error.value).split("; ")[1].split()[0])
        assert len(balanced_labels(labels, possible, seed)) == possible
        with pytest.raises(ValueError, match="class 2 has 4 labelled examples"):
            balanced_labels(labels, possible + 1, seed)
        found.add(possible)
    assert found == {16, 17, 18, 19}  # by the place of class 2 among those that give one more


@pytest.mark.parametrize(
    ("labels", "count", "seed", "error", "message"),
    [
        (LABELS, 20, 0, ValueError, "class 1 has 4 labelled examples, 20 labels over 4 classes need 5 of it"),
        (LABELS, 3, 0, ValueError, "count is 3, expected at least 4, one label for each class"),
        (LABELS, -4, 0, ValueError, "count is -4, expected at least 4, one label for each class"),
        (LABELS, 4.0, 0, TypeError, "count must be an int, got float"),
        (LABELS, 4, "0", TypeError, "seed must be an int, got str"),
        (LABELS, 4, -1, ValueError, r"seed is -1, expected a number in \[0, 2\^63\)"),
        (LABELS[:, None], 4, 0, ValueError, r"labels must have the shape \(N,\), one for each example, got \(20, 1\)"),
        (LABELS.float(), 4, 0, TypeError, "labels must be integers, got torch.float32"),
        (LABELS > 0, 4, 0, TypeError, "labels must be integers, got torch.bool"),
        (torch.full((5,), -1), 1, 0, ValueError, "no example has a label: expected one of 0 or more"),
        (torch.empty(0, dtype=torch.int64), 1, 0, ValueError, "no example has a label"),
        (["a", "b"], 2, 0, TypeError, "labels must be integers, got list"),
    ],
)
def test_what_is_wrong_is_said(labels, count, seed, error, message) -> None:
    with pytest.raises(error, match=f"balanced_labels: {message}"):
        balanced_labels(labels, count, seed)
