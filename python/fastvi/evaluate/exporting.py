"""The encoder and the decoder of a trained model as programs that run without fastvi: torch.export and ONNX."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal

from fastvi._examples import count_examples, select_examples
from fastvi._extras import require_extra
from fastvi.models import HamiltonianPosterior
from fastvi.objectives.model import completes_labels, has_own_draw

_EXAMPLE_ROWS = 3
"""Of the batch that is traced; one row would be taken for a constant."""


@dataclass(frozen=True)
class Exported:
    """Programs of a model, for any number of examples.

    Attributes
    ----------
    programs
        ``"encoder"``: of x (B, D), and of labels (B,) where the model takes them, to the mean and the log-variance of
        q(z|x), each (B, Z); of a full covariance to the mean and the lower triangular root of the covariance; of an
        autoencoder to the code. ``"decoder"``: of z (B, Z), and labels, to the mean of p(x|z), (B, D).
    missing
        By the same names, why there is no such program.
    """

    programs: dict[str, Any]
    missing: dict[str, str]

    def content(self, onnx: bool = False) -> dict[str, bytes]:
        """Return what files of the programs hold: ``encoder.pt2`` for `torch.export.load`, or ``encoder.onnx``.

        Raises
        ------
        ModuleNotFoundError
            For ONNX without the libraries of the extra ``onnx``.
        """
        if onnx:
            return {f"{name}.onnx": _as_onnx(name, program) for name, program in self.programs.items()}
        return {f"{name}.pt2": _as_pt2(program) for name, program in self.programs.items()}


def export(model: Any, x: Any) -> Exported:
    """Export the encoder and the decoder of a model by `torch.export`.

    The programs hold PyTorch's own operations alone, in float32 as the model has them, and run without fastvi.

    Parameters
    ----------
    model
        A trained model; what of it is defined is exported.
    x
        Some examples as the model takes them, (M, D), M >= 1, or with labels in a pair; their values do not matter.

    Raises
    ------
    TypeError
        If there is no part of the model that can be exported.
    ValueError
        If there is no example.

    Examples
    --------
    >>> from fastvi.models import VAE
    >>> model, x = VAE(16, 2, (8,)), torch.rand(5, 16)
    >>> mean, logvar = export(model, x).programs["encoder"].module()(x)
    >>> bool(torch.allclose(mean, model.encode(x)[0]))
    True
    """
    count = count_examples("export", "x", x)
    if count == 0:
        raise ValueError("export: x holds no example")
    model = copy.deepcopy(model).cpu().eval()
    rows = torch.arange(_EXAMPLE_ROWS) % count
    few = select_examples(x, rows)
    few = tuple(part.cpu() for part in few) if isinstance(few, tuple) else few.cpu()
    programs: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name, make in (("encoder", _encoder), ("decoder", _decoder)):
        found = make(model, few)
        if isinstance(found, str):
            missing[name] = found
        else:
            programs[name] = _program(*found)
    if not programs:
        raise TypeError(f"export: {'; '.join(f'{name}: {why}' for name, why in missing.items())}")
    return Exported(programs, missing)


class _Encoder(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *x: Tensor) -> Any:
        """Return the parameters of q(z|x), or the code."""
        given = x[0] if len(x) == 1 else x
        if not hasattr(self.model, "encode"):
            return self.model.code(given)
        found = self.model.encode(given)
        if isinstance(found, MultivariateNormal):
            return found.loc, found.scale_tril
        return found


class _Decoder(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *z: Tensor) -> Tensor:
        """Return the mean of p(x|z)."""
        found: Tensor = self.model.decode(*z)
        return found


def _encoder(model: Any, few: Any) -> tuple[nn.Module, tuple[Tensor, ...]] | str:
    """The module and what it is given; a word on why there is none."""
    name = type(model).__name__
    if completes_labels(model):
        return (
            f"the encoder of {name} takes the likeliest class by q(y|x) where a label is missing, so that what it "
            "computes depends on the labels: that is no one program"
        )
    if has_own_draw(model):
        return f"{name} draws its latent variables step by step, which is no program of x alone"
    if not hasattr(model, "encode") and not hasattr(model, "code"):
        return f"{name} has no encode"
    if hasattr(model, "encode"):
        with torch.no_grad():
            found = model.encode(few)
        if isinstance(found, Distribution) and not isinstance(found, MultivariateNormal):
            return f"q(z|x) of {name} is a {type(found).__name__}, which has no parameters to be given"
    return _Encoder(model), few if isinstance(few, tuple) else (few,)


def _decoder(model: Any, few: Any) -> tuple[nn.Module, tuple[Tensor, ...]] | str:
    inner = model.model if isinstance(model, HamiltonianPosterior) else model
    if not hasattr(inner, "decode") or not hasattr(inner, "latent_dim"):
        return f"{type(inner).__name__} has no decode(z) with latent_dim"
    parameter = next(inner.parameters())
    z = torch.linspace(-1.0, 1.0, _EXAMPLE_ROWS * inner.latent_dim, dtype=parameter.dtype)
    labels = few[1:] if isinstance(few, tuple) and getattr(inner, "num_classes", None) is not None else ()
    return _Decoder(inner), (z.reshape(_EXAMPLE_ROWS, inner.latent_dim), *labels)


def _program(module: nn.Module, given: tuple[Tensor, ...]) -> Any:
    batch = torch.export.Dim("batch", min=1)
    # The arguments of forward are one tuple, which is one argument here.
    shapes = {"x" if isinstance(module, _Encoder) else "z": tuple({0: batch} for _ in given)}
    with _quiet(), torch.no_grad():
        return torch.export.export(module, given, dynamic_shapes=shapes, strict=False)


def _as_pt2(program: Any) -> bytes:
    file = io.BytesIO()
    with _quiet():
        torch.export.save(program, file)
    return file.getvalue()


def _as_onnx(name: str, program: Any) -> bytes:
    given = ("x" if name == "encoder" else "z", "labels")[: len(program.graph_signature.user_inputs)]
    outputs = [node.meta["val"] for node in program.graph.output_node().args[0]]
    found: tuple[str, ...] = ("x",) if name == "decoder" else ("code",)
    if len(outputs) > 1:
        found = ("mean", "logvar" if outputs[1].dim() == 2 else "scale_tril")
    for library in ("onnx", "onnxscript"):
        require_extra(library, "onnx", "export to ONNX")
    with _quiet():
        converted: Any = torch.onnx.export(program, input_names=given, output_names=found, dynamo=True, verbose=False)
    content: bytes = converted.model_proto.SerializeToString()
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch's words on its own insides, which nobody who exports can act on."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
