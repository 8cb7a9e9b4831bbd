"""What fastvi uses of PyTorch Lightning, imported while the variables of other launchers are out of sight.

Lightning decides at import which process it is: ``SLURM_PROCID=1`` would keep it from writing, ``RANK=`` is an error.
"""

from __future__ import annotations

from fastvi._extras import require_extra
from fastvi.training.processes import other_launchers_hidden

with other_launchers_hidden():
    require_extra("lightning", "train", "fastvi.training")

    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import Callback, Checkpoint
    from lightning.pytorch.core.optimizer import LightningOptimizer
    from lightning.pytorch.loggers import Logger
    from lightning.pytorch.plugins.io import TorchCheckpointIO
    from lightning.pytorch.utilities import rank_zero_only

__all__ = [
    "Callback",
    "Checkpoint",
    "ClusterEnvironment",
    "LightningEnvironment",
    "LightningModule",
    "LightningOptimizer",
    "Logger",
    "TorchCheckpointIO",
    "TorchElasticEnvironment",
    "Trainer",
    "rank_zero_only",
]
