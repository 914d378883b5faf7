"""A small convolutional autoencoder."""

from torch import Tensor, nn

from blitz.errors import UserError


class Autoencoder(nn.Module):
    """Two strided convolutions to a vector of ``latent_size`` numbers, and a mirrored decoder.

    The output has no activation, so that it can take all values of normalized images. ``encoder(images)`` returns the
    vectors ``(n, latent_size)``, and ``decoder(vectors)`` returns images.

    Args:
        image_size: height and width in pixels.
        width: channels of the first convolution; the second has twice as many.

    Raises:
        UserError: ``image_size`` is not divisible by 4, so that two halvings cannot be undone.
    """

    def __init__(self, in_channels: int = 1, image_size: int = 32, latent_size: int = 32, width: int = 16) -> None:
        super().__init__()
        if image_size < 4 or image_size % 4:
            raise UserError(f"data.image_size={image_size}: Autoencoder halves it twice; expected a multiple of 4")
        side = image_size // 4
        self.encoder = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * side**2, latent_size),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent_size, 2 * width * side**2),
            nn.ReLU(),
            nn.Unflatten(1, (2 * width, side, side)),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(width, in_channels, 4, stride=2, padding=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return reconstructions of images, both ``(n, in_channels, image_size, image_size)``."""
        return self.decoder(self.encoder(images))
