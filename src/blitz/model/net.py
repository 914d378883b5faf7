"""Network of the tutorial (60 Minute Blitz, "Neural Networks" and "Training a Classifier")."""

import torch.nn.functional as F
from torch import Tensor, nn

from blitz.errors import UserError


class Net(nn.Module):
    """Two convolutions and three linear layers: LeNet-5 (LeCun et al., 1998) with ReLU and max-pooling.

    With the tutorial's 32x32 images, the flattened size is 16 * 5 * 5.

    Raises:
        UserError: ``image_size`` is below 16, so that nothing is left after two convolutions and poolings.
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 10, image_size: int = 32) -> None:
        super().__init__()
        side = ((image_size - 4) // 2 - 4) // 2
        if side < 1:
            raise UserError(f"data.image_size={image_size}: too small for Net; expected 16 or more")
        self.conv1 = nn.Conv2d(in_channels, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * side * side, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(n, num_classes)`` for images ``(n, in_channels, image_size, image_size)``."""
        # Pooling before ReLU gives the same values and gradients, and ReLU works on a quarter of the elements.
        x = F.relu(F.max_pool2d(self.conv1(images), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        x = x.flatten(1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)
