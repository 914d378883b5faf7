"""Names of metrics in TensorBoard."""


def tag(metric: str) -> str | None:
    """Return the name of a metric in TensorBoard, or None if it is only in the tables of its TEXT tab.

    ``train/loss`` becomes ``loss/train`` and ``val/loss`` becomes ``loss/val``. TensorBoard sorts by name, opens the
    first groups of curves, and HPARAMS shows the first five values. So the page opens with accuracy and loss, and
    not with the test, whose curves are single points. HPARAMS reads its values from curves, so the test must have
    curves. The test metrics of single classes have none.
    """
    stage, _, name = metric.partition("/")
    if stage == "test" and "/" in name:
        return None
    of_epoch = name and "/" not in name and not name.endswith("_step")
    return f"{name}/{stage}" if stage in ("train", "val") and of_epoch else metric
