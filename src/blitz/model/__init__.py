"""Networks. They need only torch."""
