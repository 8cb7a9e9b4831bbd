"""The commands of ``fastvi``, one file each; `fastvi.cli` puts them together.

They import what they need when they run, so that ``fastvi --help`` answers at once.
"""
