"""Upgrade configs that earlier versions recorded to the current layout."""

from typing import Any


def upgrade_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return a recorded config in the current layout; a current one is returned unchanged.

    Earlier versions kept network, optimizer, schedule, classes and transform out of ``task``, and ``device.processes``
    repeated ``trainer.devices``.
    """
    config = dict(config)
    data = config["data"]
    if config["model"] and "net" not in config["task"] and "channels" in data:
        transform = {key: data[key] for key in ("channels", "image_size", "fit", "mean", "std")}
        config["task"] = {
            **config["task"],
            "net": config["model"],
            "optimizer": config["optimizer"],
            "schedule": config["schedule"],
            "classes": data["classes"],
            "transform": {"_target_": "blitz.data.transforms.Transform", **transform},
        }
    if "processes" in config["device"]:
        device = {key: value for key, value in config["device"].items() if key != "processes"}
        config["device"] = device | {"process_per_device": True}
    return config
