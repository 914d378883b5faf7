"""Names of metrics in TensorBoard."""


def tag(metric: str) -> str | None:
    """Return the name of a metric in TensorBoard, or None if it is only in the tables of its TEXT tab.

    ``train/loss`` becomes ``loss/train`` and ``val/loss`` becomes ``loss/val``. TensorBoard sorts by name, opens the
    first groups of curves, and HPARAMS shows the first five values. So these are accuracy and loss, and then the test,
    instead of a page with the single points of the test. HPARAMS takes its values from curves: the test cannot be there
    without its points being among the curves. Those of single classes are left out.
    """
    stage, _, name = metric.partition("/")
    if stage == "test" and "/" in name:
        return None
    of_epoch = name and "/" not in name and not name.endswith("_step")
    return f"{name}/{stage}" if stage in ("train", "val") and of_epoch else metric
