"""The graph of the network: what tracing must not change, and networks that cannot be traced."""

import torch
from lightning import LightningModule, Trainer
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from blitz.callback.graph import Graph


class Module(LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net = net
        self.example_input_array = torch.zeros(2, 3)


class Untraceable(nn.Module):
    def forward(self, inputs):
        raise RuntimeError("no way\nthrough")


def test_modes_and_random_state_stay(tmp_path):
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.BatchNorm1d(3))
    net.train()
    net[2].eval()  # a frozen layer
    random, weights = torch.get_rng_state(), {key: value.clone() for key, value in net.state_dict().items()}
    module = Module(net)
    module.trainer = Trainer(logger=False)
    assert Graph().accepts(module)
    with SummaryWriter(tmp_path) as writer:
        Graph().draw(writer, module, "val", 0)
    assert [layer.training for layer in net] == [True, True, False]
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(weights[key], value) for key, value in net.state_dict().items())


def test_network_that_cannot_be_traced_is_one_line(tmp_path, capsys):
    with SummaryWriter(tmp_path) as writer:
        Graph().draw(writer, Module(Untraceable()), "val", 0)
    assert capsys.readouterr().out == "no graph       Untraceable cannot be traced: no way\n"
