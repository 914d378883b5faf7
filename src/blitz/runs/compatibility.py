"""Upgrade configs that earlier versions recorded to the current layout."""

from typing import Any

from blitz.config.keys import leaves, needs_total_steps


def upgrade_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return a recorded config in the current layout. A current one, which has ``direction``, is returned unchanged.

    Until 2026-11, the largest value of ``optimized_metric`` was the best, unless it was a loss, and every schedule
    counted optimizer steps. Until version 0.1, network, optimizer, schedule, classes and transform were not in
    ``task``, and ``device.processes`` repeated ``trainer.devices``.
    """
    if "direction" in config:
        return config
    config = dict(config)
    config["direction"] = "min" if str(config.get("optimized_metric")).endswith("loss") else "max"
    if "net" not in config["task"]:
        data = config["data"]
        transform = {key: data[key] for key in ("channels", "image_size", "fit", "mean", "std")}
        config["task"] = {
            **config["task"],
            "net": config["model"],
            "optimizer": config["optimizer"],
            "schedule": config["schedule"],
            "classes": data["classes"],
            "transform": {"_target_": "blitz.data.transforms.Transform", **transform},
        }
    config["task"] = dict(config["task"])
    for node in (config, config["task"]):
        schedule = node.get("schedule")
        if schedule and not any(needs_total_steps(value) for _, value in leaves(schedule)):
            node["schedule"] = {"scheduler": schedule, "interval": "step"}
    if "processes" in config["device"]:
        device = {key: value for key, value in config["device"].items() if key != "processes"}
        config["device"] = device | {"process_per_device": True}
    return config
