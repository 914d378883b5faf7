from blitz.runs.tags import tag


def test_first_groups_are_metrics_of_training_and_validation():
    names = ["test/acc", "test/loss", "train/acc", "train/acc_step", "train/loss", "val/acc", "val/acc/cat", "val/loss"]
    assert sorted(filter(None, map(tag, names)))[:5] == ["acc/train", "acc/val", "loss/train", "loss/val", "test/acc"]


def test_names_that_stay():
    for name in ("train/loss_step", "val/acc/cat", "test/loss", "train_loss", "loss", "train/", "hp/a/b", "lr-Adam"):
        assert tag(name) == name


def test_test_of_single_classes_is_no_curve():
    assert tag("test/acc/cat") is None
