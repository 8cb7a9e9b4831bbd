"""What `fastvi.fit` returns and `fastvi.load` reads: a trained model with its settings, figures and files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from fastvi._options import as_path
from fastvi.data import DATASET_NAMES, Dataset, DataSource, load_dataset
from fastvi.objectives.model import has_bound
from fastvi.training.class_names import require_words_of
from fastvi.training.config import RunFolder
from fastvi.training.data_record import DataRecord
from fastvi.training.errors import RunError
from fastvi.training.figures import evaluation_examples, some_examples
from fastvi.training.files import write_run_file
from fastvi.training.given_data import given_data, is_stream
from fastvi.training.own_model import OwnModel, shaped
from fastvi.training.settings import TrainingConfig, check_settings

if TYPE_CHECKING:
    from fastvi.evaluate import AnnealedEvaluation, Evaluation, LossEvaluation


@dataclasses.dataclass
class Fit:
    """A trained model.

    Attributes
    ----------
    model
        On the CPU, in evaluation mode.
    config
        The settings of its run.
    history
        One dictionary for each epoch: step, epoch, bound or loss, that of validation, collapsed dimensions, seconds.
    folder
        Where the run lies; None where nothing was written.
    """

    model: nn.Module = dataclasses.field(repr=False)
    config: TrainingConfig
    history: list[dict[str, float]] = dataclasses.field(repr=False)
    folder: RunFolder | None = None
    _source: Any = dataclasses.field(default=None, repr=False)
    _checkpoints: Mapping[str, bytes] = dataclasses.field(default_factory=dict, repr=False)

    def evaluate(
        self, data: Any = None, *, num_samples: int = 5000, limit: int | None = 1000
    ) -> Evaluation | LossEvaluation:
        """Evaluate the model, as ``fastvi evaluate`` does.

        Parameters
        ----------
        data
            Examples, or a pair with their labels: arrays, or a torch Dataset; a model that takes missing labels needs
            none. Labels are numbers of classes, or the words that the run was trained on. None: the test examples of
            the run, which one that was loaded reads again where its data have a name or a path.
        num_samples
            K of the bound that stands for log p(x).
        limit
            Most examples, evenly spaced; None: all.

        Returns
        -------
        fastvi.evaluate.Evaluation
            ``elbo``, ``importance_weighted``, ``active_units`` and others; a ``LossEvaluation`` for models without a
            bound on log p(x).

        Raises
        ------
        ValueError
            If there are no test examples.
        RunError
            If the data are not what the run can take, such as labels that are no classes of it.
        """
        from fastvi.evaluate import evaluate, evaluate_loss

        examples, _, total = some_examples(self._examples(data), limit)
        model: Any = self.model
        if not has_bound(model):
            return evaluate_loss(self.config.objective, self.model, examples, test_images=total, seed=self.config.seed)
        return evaluate(
            model,
            examples,
            num_samples=num_samples,
            training_num_samples=self.config.num_samples,
            test_images=total,
            seed=self.config.seed,
        )

    def anneal(self, data: Any = None, *, limit: int | None = 100, **options: Any) -> AnnealedEvaluation:
        """Estimate log p(x) by annealed importance sampling of the decoder, as ``fastvi evaluate --ais`` does.

        Parameters
        ----------
        data, limit
            See `evaluate`; annealing an image takes as long as thousands of its samples.
        options
            Those of :func:`fastvi.evaluate.evaluate_by_annealing`: ``num_temperatures``, ``num_chains``, ``num_steps``
            leapfrogs, ``start`` and others. ``seed`` is the run's unless it is given.

        Raises
        ------
        ValueError, TypeError
            If there are no test examples, an option is not as it should be, or the model has no continuous latent
            variables with a prior and a likelihood.

        Examples
        --------
        >>> import torch, fastvi
        >>> x = torch.rand(200, 16, generator=torch.Generator().manual_seed(0)).round()
        >>> fitted = fastvi.fit("vae", x, epochs=1, latent_dim=2, hidden_dims=(8,))
        >>> fitted.anneal(limit=5, num_temperatures=20, num_chains=4).images
        5
        """
        from fastvi.evaluate import evaluate_by_annealing

        examples, _, total = some_examples(self._examples(data, "anneal"), limit, "anneal")
        settings = {"test_images": total, "seed": self.config.seed, **options}
        return evaluate_by_annealing(self.model, examples, **settings)

    def save(self, path: Path | str) -> Path:
        """Write a run folder, which `fastvi.load`, ``fastvi evaluate`` and ``fastvi train --resume`` read.

        Raises
        ------
        RunError
            If something lies there, or it cannot be written.
        """
        folder = RunFolder(as_path("save", "path", path))
        if folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
            raise RunError(f"{folder.path} is not empty: name another folder")
        checkpoints = self._checkpoints or self._read_checkpoints()
        is_dataset = isinstance(self._source, Dataset)
        record = DataRecord.of(self._source, None, self.config.uses_labels) if is_dataset else None
        if self.folder is not None:
            record = self.folder.read_record()
        folder.write_config(self.config, record)
        for name, content in checkpoints.items():
            write_run_file(folder.checkpoint_file.with_name(name), content)
        folder.write_history(self.history)
        return folder.path

    def save_pretrained(self, path: Path | str) -> Path:
        """Write model.safetensors, config.json and README.md: the model without its optimiser, and no pickle.

        Raises
        ------
        ImportError
            Without safetensors, the extra ``save``.
        RunError
            If something lies there, or it cannot be written.
        """
        from fastvi.training.pretrained import write_pretrained

        return write_pretrained(self, as_path("save_pretrained", "path", path))

    def _read_checkpoints(self) -> dict[str, bytes]:
        if self.folder is None:
            raise RunError("the checkpoint of this model is not at hand: it was read without one; use save_pretrained")
        files = (self.folder.checkpoint_file, self.folder.best_checkpoint_file)
        return {file.name: file.read_bytes() for file in files if file.exists()}

    def _recorded_data(self) -> Dataset | None:
        """Return the data of a run that was read, from the place that it remembers; None where it remembers none.

        Raises
        ------
        DataError
            If they cannot be read.
        RunError
            If they are not those that it was trained on.
        """
        record = None if self.folder is None else self.folder.read_record()
        if self.folder is None or record is None:
            return None
        if record.source is not None:
            data = DataSource.from_dict(record.source).load()
        elif self.config.data in DATASET_NAMES:
            data = load_dataset(self.config.data, None if record.data_dir is None else Path(record.data_dir))
        else:
            return None
        self.folder.check_data(data)
        return data

    def _examples(self, data: Any, owner: str = "evaluate") -> Any:
        """Return examples as the model takes them."""
        config = self.config
        if data is None:
            own = self._source if isinstance(self._source, Dataset) else self._recorded_data()
            if own is None:
                raise ValueError(f"{owner}: the run has no test examples at hand: give some by data")
            return shaped(config.model, evaluation_examples(own, config))
        if is_stream(data):
            raise TypeError(
                f"{owner}: data must be examples at hand, such as an array, a tensor or a Dataset with a length, got "
                f"an object of type {type(data).__name__}"
            )
        is_own = isinstance(config.model, OwnModel)
        found = (
            data
            if isinstance(data, Dataset)
            else given_data(
                data,
                keep_values=is_own,
                with_labels=config.uses_labels,
                may_lack_labels=config.takes_missing_labels,
                test=data,
                likelihood=None if is_own else getattr(config.model, "likelihood", None),
            ).dataset
        )
        require_words_of(config, found)
        return shaped(config.model, evaluation_examples(found, config))


def load(path: Path | str, model: nn.Module | Callable[[], nn.Module] | None = None) -> Fit:
    """Read a trained model with its settings: a run folder of ``fastvi train`` or `fastvi.fit`, or a pretrained one.

    Parameters
    ----------
    path
        The folder.
    model
        For a run of a module of your own: such a module, or its class, which is called without arguments. Its
        parameters are set.

    Raises
    ------
    RunError
        If it is no such folder, is damaged, or its model is of another class or shape.

    Examples
    --------
    >>> import tempfile, torch, fastvi
    >>> x = torch.rand(200, 16, generator=torch.Generator().manual_seed(0)).round()
    >>> fitted = fastvi.fit("vae", x, epochs=1, latent_dim=2, hidden_dims=(8,))
    >>> again = fastvi.load(fitted.save(tempfile.mkdtemp()))
    >>> again.config == fitted.config, torch.equal(again.model.encode(x)[0], fitted.model.encode(x)[0])
    (True, True)
    """
    from fastvi.training.pretrained import is_pretrained, read_pretrained

    folder = RunFolder(as_path("load", "path", path))
    made = model if isinstance(model, nn.Module) or model is None else model()
    if is_pretrained(folder.path):
        return read_pretrained(folder.path, made)
    config = folder.read_config()
    attach(config, made, folder.path)
    return Fit(folder.load_model(config), config, folder.read_history(), folder)


def from_pretrained(path: Path | str, model: nn.Module | Callable[[], nn.Module] | None = None) -> nn.Module:
    """Return the model of a folder of ``save_pretrained``, or of a run, for evaluation; `load` gives its settings, too.

    Parameters, raises: see `load`.

    Examples
    --------
    >>> import tempfile, torch, fastvi
    >>> x = torch.rand(200, 16, generator=torch.Generator().manual_seed(0)).round()
    >>> fitted = fastvi.fit("vae", x, epochs=1, latent_dim=2, hidden_dims=(8,))
    >>> fastvi.from_pretrained(fitted.save(tempfile.mkdtemp())).training
    False
    """
    return load(path, model).model


def attach(config: TrainingConfig, model: nn.Module | None, path: Path) -> None:
    """Give settings that were read the module of the user's own, where they are of one.

    Raises
    ------
    RunError
        If it is missing, of another class, or given for a model of fastvi.
    """
    if not isinstance(config.model, OwnModel):
        if model is not None:
            raise RunError(f"{path} is a run of the model {config.model_name}: leave out model")
        return
    if model is None:
        raise RunError(
            f"{path} is a run of the class {config.model.class_name} of your own: give it by load(path, model=...)"
        )
    if type(model).__name__ != config.model.class_name:
        raise RunError(f"{path} is a run of the class {config.model.class_name}, got a {type(model).__name__}")
    config.model.attach(model)
    check_settings(config)
