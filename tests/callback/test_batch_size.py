import pytest
import torch

from blitz.callback.batch_size import num_samples


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.zeros(5, 2), 5),
        (torch.tensor(1.0), 1),
        ((torch.zeros(3, 2), torch.zeros(3)), 3),
        ({"name": "abc", "x": [torch.zeros(4)]}, 4),
        (["abc", None], 0),
        (object(), 0),
    ],
)
def test_size_of_a_batch(batch, size):
    assert num_samples(batch) == size
