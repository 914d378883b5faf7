"""The convolutional autoencoder: shapes, and what its latent vector can hold."""

import pytest
import torch

from blitz.errors import UserError
from blitz.model.autoencoder import Autoencoder


@pytest.mark.parametrize(("channels", "size", "latent"), [(1, 4, 3), (3, 28, 8), (1, 32, 32)])
def test_shapes(channels, size, latent):
    net, images = Autoencoder(channels, size, latent, width=4), torch.randn(2, channels, size, size)
    vectors = net.encoder(images)
    assert vectors.shape == (2, latent)
    assert net(images).shape == images.shape
    assert torch.equal(net(images), net.decoder(vectors)), "nothing but the vectors reaches the decoder"


@pytest.mark.parametrize("size", [2, 30, 33])
def test_a_size_that_cannot_be_halved_twice_is_refused(size):
    with pytest.raises(UserError, match=rf"data.image_size={size}: .+; expected a multiple of 4"):
        Autoencoder(image_size=size)
