"""Training of the models on PyTorch Lightning: configuration, batches, checkpoints, run folder and pictures.

Nothing here imports Lightning but `fastvi.training.trainer`, so that a run can be read without it.
"""
