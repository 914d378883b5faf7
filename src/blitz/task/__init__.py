"""Tasks: a network with its loss, its optimizer and its metrics."""
