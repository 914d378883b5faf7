"""Data sets: one file each; `_datamodule` and `_loader` are what they share."""
