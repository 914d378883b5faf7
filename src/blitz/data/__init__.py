"""Data sets: one file each, over ``datamodule.py`` (splits, checks) and ``loader.py`` (batches)."""
