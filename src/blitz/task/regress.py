"""Regression with one output."""

from typing import Any, Unpack

import torch
from torch import Tensor, nn

from blitz.errors import UserError
from blitz.runs.exportable import Exportable
from blitz.runs.report import Report
from blitz.task.image_model import evaluation_mode
from blitz.task.net_check import output_shape
from blitz.task.stage_task import Loss, StageOptions, StageTask

Batch = tuple[Tensor, Tensor]


class Regress(StageTask):
    """Predict one number for each sample, by default with the mean squared error.

    Batches are ``(inputs, targets)``: float ``(n, features)`` and ``(n,)`` or ``(n, 1)``.

    Args:
        net: takes inputs ``(n, features)`` and returns predictions ``(n,)`` or ``(n, 1)``.
        loss: called with predictions and targets, both ``(n,)``; returns their mean loss. None: the mean squared error.
        features: number of inputs, to check the network before training. None: it is not checked.
        options: as in ``StageTask``.

    Raises:
        UserError: the network does not accept this number of features, or does not return one number for each sample.
    """

    def __init__(
        self,
        net: nn.Module,
        features: int | None = None,
        loss: Loss | None = None,
        **options: Unpack[StageOptions],
    ) -> None:
        super().__init__(net, loss or nn.MSELoss(), **options)
        if features is not None:
            self.example_input_array = torch.zeros(2, features)
            _check_numbers(net, output_shape(net, self.example_input_array), 2)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return predictions ``(n,)`` for inputs ``(n, features)``."""
        predictions: Tensor = self.net(inputs)
        _check_numbers(self.net, tuple(predictions.shape), len(inputs))
        return predictions.flatten()

    def predictions_and_targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self(batch[0]), batch[1].flatten()

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return predictions ``(n,)``."""
        return self(batch[0])

    def predict(self, inputs: Any) -> Tensor:
        """Return predictions ``(n,)`` for a tensor, an array or lists of numbers ``(n, features)``."""
        with evaluation_mode(self):
            return self(torch.as_tensor(inputs, dtype=torch.float32).to(self.device)).cpu()

    def prediction_records(self, batch: Batch, outputs: Tensor) -> list[dict[str, Any]]:
        """Return the true and the predicted number of each sample."""
        pairs = zip(batch[1].flatten().tolist(), outputs.tolist(), strict=True)
        return [{"truth": truth, "prediction": prediction} for truth, prediction in pairs]

    def prediction_report(self, batch: Batch, outputs: Tensor) -> Report:
        """Return no lines and no pictures: the table holds everything."""
        return Report()

    def exportable(self) -> Exportable:
        """Return the network: float32 ``inputs`` ``(n, features)`` in, ``predictions`` ``(n,)`` out.

        Raises:
            UserError: the number of features is unknown.
        """
        if self.example_input_array is None:
            raise UserError("task.features=null: the export needs the number of inputs; expected a whole number")
        example = torch.as_tensor(self.example_input_array)
        return Exportable(
            module=nn.Sequential(self.net, nn.Flatten(0)).eval(),
            example=example,
            input="inputs",
            output="predictions",
            raw=lambda batch: batch[0],
            original=lambda batch: self.predict(batch[0]),
            metadata={"features": example.shape[1]},
        )


def _check_numbers(net: nn.Module, shape: tuple[int, ...], n: int) -> None:
    if shape not in ((n,), (n, 1)):
        raise UserError(
            f"{type(net).__name__} returns {shape} for {n} samples; expected ({n},) or ({n}, 1), as of model=mlp"
        )
