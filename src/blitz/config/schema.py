"""The typed top level of the configs of the console scripts."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from blitz.config.resolvers import RESOLVERS


@dataclass
class TrainConfig:
    """The top level of ``configs/train.yaml``. The keys of a group are checked against its ``_target_``."""

    resume: str | None = None
    init_from: str | None = None
    reproduce: str | None = None
    name: str | None = None
    seed: int | None = None
    run_dir: str = MISSING
    optimized_metric: str | None = None
    direction: str = "max"
    threads: int | None = None
    channels_last: bool | None = None
    compile: bool = False
    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    device: dict[str, Any] = field(default_factory=dict)
    callback: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)


@dataclass
class ModelConfig:
    """The keys of every command that uses a trained model."""

    run: str | None = None
    checkpoint: str | None = None
    data_root: str | None = None
    trust: bool = False
    output_dir: str = MISSING


@dataclass
class EvalConfig(ModelConfig):
    """The top level of ``configs/eval.yaml``."""

    stage: str = "test"
    trainer: dict[str, Any] = field(default_factory=dict)
    device: dict[str, Any] = field(default_factory=dict)


@dataclass
class PredictConfig(ModelConfig):
    """The top level of ``configs/predict.yaml``."""

    inputs: str = MISSING
    format: str = "csv"
    grid: int = 24
    trainer: dict[str, Any] = field(default_factory=dict)
    device: dict[str, Any] = field(default_factory=dict)


@dataclass
class ExportConfig(ModelConfig):
    """The top level of ``configs/export.yaml``."""

    format: str = "onnx"


SCHEMAS: dict[str, Any] = {
    "train": TrainConfig,
    "eval": EvalConfig,
    "predict": PredictConfig,
    "export": ExportConfig,
}


def register() -> None:
    """Make the typed top levels and the resolvers known to Hydra."""
    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        store.store(name=f"{name}_schema", node=schema)
    for name, resolver in RESOLVERS.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)
