"""Lightning with Hydra, as templates usually combine them: a peer of ``benchmark.py`` for the start-up.

The config is instantiated, printed as a tree and logged. There are rich's progress bar and model summary, TensorBoard,
checkpoints, early stopping, torchvision's MNIST, a DataLoader and torchmetrics. The program ends after its first step.
"""

import os
from typing import Any

import hydra
import rich
import torchvision.transforms as transforms
from hydra.core.config_store import ConfigStore
from hydra.utils import instantiate
from lightning import LightningDataModule, seed_everything
from omegaconf import DictConfig, OmegaConf
from peers import Steps
from rich.syntax import Syntax
from rich.tree import Tree
from torch.utils.data import DataLoader, random_split
from torchvision.datasets import MNIST

CALLBACKS = "lightning.pytorch.callbacks"
CONFIG = {
    "seed": 0,
    "data": {"_target_": "hydra_peer.Data", "folder": "data", "batch_size": 128},
    "model": {
        "_target_": "peers.Classifier",
        "net": {"_target_": "peers.DenseNet"},
        "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.001},
    },
    "callbacks": {
        "checkpoint": {
            "_target_": f"{CALLBACKS}.ModelCheckpoint",
            "dirpath": "${hydra:runtime.output_dir}/checkpoints",
            "monitor": "val/acc",
            "mode": "max",
            "save_last": True,
        },
        "stopping": {"_target_": f"{CALLBACKS}.EarlyStopping", "monitor": "val/acc", "patience": 100, "mode": "max"},
        "summary": {"_target_": f"{CALLBACKS}.RichModelSummary", "max_depth": -1},
        "bar": {"_target_": f"{CALLBACKS}.RichProgressBar"},
    },
    "logger": {
        "_target_": "lightning.pytorch.loggers.TensorBoardLogger",
        "save_dir": "${hydra:runtime.output_dir}",
        "name": None,
    },
    "trainer": {
        "_target_": "lightning.Trainer",
        "default_root_dir": "${hydra:runtime.output_dir}",
        "accelerator": "auto",
        "devices": 1,
        "max_epochs": 10,
    },
}
ConfigStore.instance().store("train", CONFIG)


class Data(LightningDataModule):
    def __init__(self, folder: str, batch_size: int) -> None:
        super().__init__()
        self.folder, self.batch_size = folder, batch_size
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])

    def setup(self, stage: str) -> None:
        mnist = MNIST(self.folder, train=True, transform=self.transform)
        self.train, self.val = random_split(mnist, [55_000, 5_000])

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.val, self.batch_size)


@hydra.main(version_base="1.3", config_path=None, config_name="train")
def main(cfg: DictConfig) -> None:
    tree = Tree("config")
    for name, part in cfg.items():
        text = OmegaConf.to_yaml(part, resolve=True) if isinstance(part, DictConfig) else str(part)
        tree.add(str(name)).add(Syntax(text, "yaml"))
    rich.print(tree)
    seed_everything(cfg.seed)
    data, model, logger = (instantiate(cfg[name]) for name in ("data", "model", "logger"))
    callbacks = [instantiate(callback) for callback in cfg.callbacks.values()]
    trainer = instantiate(cfg.trainer, callbacks=[*callbacks, Steps(lambda: os._exit(0))], logger=logger)
    logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
    trainer.fit(model, datamodule=data)


if __name__ == "__main__":
    main()
