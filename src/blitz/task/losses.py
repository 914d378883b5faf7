"""Losses that torch does not have, for logits ``(n, classes)`` and labels, int64 ``(n,)``."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FocalLoss(nn.Module):
    """Cross-entropy that weights each image by ``(1 - p) ** gamma``, where ``p`` is the probability of its class.

    Lin et al., "Focal Loss for Dense Object Detection", 2017, equation 4, for several classes.
    """

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = F.cross_entropy(logits, labels, reduction="none")
        return ((1 - (-losses).exp()) ** self.gamma * losses).mean()


class BalancedCrossEntropy(nn.Module):
    """Cross-entropy with class weights ``n / (classes * n_class)``, so that every class has the same total weight.

    The weights are computed from the training data when training begins, and are saved in checkpoints. The sum is
    divided by the number of images, not by the sum of the weights. So it does not depend on how devices share a batch.
    """

    weight: Tensor

    def __init__(self, num_classes: int, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.register_buffer("weight", torch.ones(num_classes))

    def set_class_counts(self, counts: Tensor) -> None:
        """Compute the weights from the number of training images of each class, int64 ``(classes,)``."""
        self.weight.copy_(counts.sum() / (len(counts) * counts.clamp(min=1)))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)
        return (self.weight[labels] * losses).mean()
