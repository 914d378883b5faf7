"""Build data, task and trainer from a config."""
