"""The layout of TensorBoard's CUSTOM SCALARS tab."""

from blitz.callback.charts import layout


def test_layout():
    names = ["train/loss_step", "val/acc/a.b", "val/loss", "val/acc", "train/loss", "train/acc", "test/acc", "gan_loss"]
    charts = layout(names)
    assert charts["train and val"] == {
        "acc": ["Multiline", ["acc/val$", "acc/train$"]],
        "loss": ["Multiline", ["loss/val$", "loss/train$"]],
    }
    assert charts["by class"] == {"val acc": ["Multiline", [r"val/acc/a\.b$"]]}, "a regular expression"
    assert charts["training"]["lr"] == ["Multiline", ["train/lr$"]]


def test_module_without_stages_has_only_charts_of_the_training():
    assert list(layout(["loss", "val_loss"])) == ["training"]
