"""The PyTorch 60 Minute Blitz, grown into a research template."""
