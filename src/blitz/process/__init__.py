"""Processes of a run: signals, ranks, agreement between ranks, random state."""
