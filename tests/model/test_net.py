"""The tutorial's network: its structure, sizes and arithmetic."""

import pytest
import torch
import torch.nn.functional as F

from blitz.errors import UserError
from blitz.model.net import Net


def test_the_tutorials_structure():
    net = Net()
    assert str(net).splitlines()[1:-1] == [
        "  (conv1): Conv2d(1, 6, kernel_size=(5, 5), stride=(1, 1))",
        "  (conv2): Conv2d(6, 16, kernel_size=(5, 5), stride=(1, 1))",
        "  (fc1): Linear(in_features=400, out_features=120, bias=True)",
        "  (fc2): Linear(in_features=120, out_features=84, bias=True)",
        "  (fc3): Linear(in_features=84, out_features=10, bias=True)",
    ]
    assert len(list(net.parameters())) == 10


def test_pooling_first_changes_neither_values_nor_gradients():
    """The tutorial pools after ReLU."""
    net, images = Net(3), torch.randn(8, 3, 32, 32)

    def tutorial(x):
        x = F.max_pool2d(F.relu(net.conv1(x)), 2)
        x = F.max_pool2d(F.relu(net.conv2(x)), 2).flatten(1)
        return net.fc3(F.relu(net.fc2(F.relu(net.fc1(x)))))

    gradients = []
    for forward in (net, tutorial):
        net.zero_grad()
        out = forward(images)
        out.square().sum().backward()
        gradients.append([out.detach(), *(p.grad.clone() for p in net.parameters())])
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("channels", "size", "classes"), [(1, 16, 2), (3, 28, 100), (3, 64, 5)])
def test_other_sizes(channels, size, classes):
    assert Net(channels, classes, size)(torch.randn(2, channels, size, size)).shape == (2, classes)


def test_images_that_are_too_small_are_refused():
    with pytest.raises(UserError, match=r"data.image_size=15: too small for Net; expected 16 or more"):
        Net(image_size=15)
