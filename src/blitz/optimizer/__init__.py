"""Parameter groups of optimizers. The optimizers themselves are torch's."""
