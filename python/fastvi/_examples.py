"""Examples as models take them: a tensor, or tuples, lists and dictionaries of tensors; the first axis is the batch."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from torch import Tensor


def count_examples(operation: str, name: str, examples: Any) -> int:
    """The length of the first axis, which all tensors share.

    Raises
    ------
    TypeError
        If there is anything but tensors and None, or no tensor.
    ValueError
        If a tensor has no axis, or their lengths differ.
    """
    lengths = {}
    for place, part in _parts(name, examples):
        if not isinstance(part, Tensor):
            raise TypeError(
                f"{operation}: {place} must be a tensor, or a tuple, list or dictionary of tensors, "
                f"got {type(part).__name__}"
            )
        if part.dim() == 0:
            raise ValueError(f"{operation}: {place} has no axis; expected the examples in the first one")
        lengths[place] = part.shape[0]
    if not lengths:
        raise TypeError(f"{operation}: {name} holds no tensor")
    if len(set(lengths.values())) > 1:
        differing = ", ".join(f"{place} {length}" for place, length in lengths.items())
        raise ValueError(f"{operation}: the tensors of {name} hold different numbers of examples: {differing}")
    return next(iter(lengths.values()))


def select_examples(examples: Any, rows: slice | Tensor) -> Any:
    """The examples ``rows``, a slice or indices, in the same structure."""
    if isinstance(examples, Tensor):
        return examples[rows]
    if isinstance(examples, tuple):
        chosen = [select_examples(part, rows) for part in examples]
        named = hasattr(examples, "_fields")  # a namedtuple's class takes its fields one by one
        return type(examples)(*chosen) if named else tuple(chosen)
    if isinstance(examples, list):
        return [select_examples(part, rows) for part in examples]
    if isinstance(examples, Mapping):
        pairs = {key: select_examples(part, rows) for key, part in examples.items()}
        if not isinstance(examples, MutableMapping):
            return pairs
        same_kind = copy.copy(examples)
        same_kind.update(pairs)
        return same_kind
    return examples


def first_tensor(examples: Any) -> Tensor | None:
    """The first tensor that there is; None where there is none."""
    if isinstance(examples, Tensor):
        return examples
    parts = examples.values() if isinstance(examples, Mapping) else examples
    for part in parts if isinstance(examples, (Mapping, tuple, list)) else ():
        found = first_tensor(part)
        if found is not None:
            return found
    return None


def _parts(name: str, examples: Any) -> Iterator[tuple[str, Any]]:
    """Each tensor, or what stands in its place, with the name that Python has for it; None is left out."""
    if isinstance(examples, (tuple, list)):
        for i, part in enumerate(examples):
            yield from _parts(f"{name}[{i}]", part)
    elif isinstance(examples, Mapping):
        for key, part in examples.items():
            yield from _parts(f"{name}[{key!r}]", part)
    elif examples is not None:
        yield name, examples
