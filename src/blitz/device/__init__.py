"""Strategies that spread a run over devices. Models and tasks do not know how many devices there are."""
