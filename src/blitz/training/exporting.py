"""Export of a trained model to ONNX or ``torch.export``, and the comparison of its output with the original's."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from blitz.errors import UserError, reason
from blitz.runs.exportable import Exportable

Format = Literal["onnx", "torch_export"]
FILES: dict[Format, str] = {"onnx": "model.onnx", "torch_export": "model.pt2"}
METADATA = "blitz.json"  # of a torch.export archive, the name of the extra file that holds the metadata
COMPARED = 256  # samples of the data
TOLERANCE = 1e-4  # largest absolute difference from the original


def check_packages(kind: Format) -> None:
    """Refuse a format whose packages are not installed.

    Raises:
        UserError: with the command that installs them.
    """
    absent = [name for name in ("onnx", "onnxscript", "onnxruntime") if kind == "onnx" and find_spec(name) is None]
    if absent:
        raise UserError(
            f"format=onnx: {', '.join(absent)} not installed; install with: python -m uv pip install -e '.[onnx]', "
            "or use format=torch_export"
        )


def export(model: Exportable, kind: Format) -> bytes:
    """Return the content of a file with the model and its metadata. The batch size stays variable.

    Raises:
        UserError: torch cannot export the model.
    """
    described = {
        "blitz_version": metadata.version("blitz"),
        "input": {"name": model.input, "dtype": _dtype(model.example), "shape": ["batch", *model.example.shape[1:]]},
        "output": {"name": model.output},
        **model.metadata,
    }
    dynamic = ({0: torch.export.Dim("batch", min=1)},)
    with _quiet(), torch.no_grad():
        try:
            program = torch.export.export(model.module, (model.example,), dynamic_shapes=dynamic)
            return _to_onnx(program, model, described) if kind == "onnx" else _to_archive(program, described)
        except Exception as error:  # torch.export raises many kinds
            name = type(getattr(model.module, "net", model.module)).__name__
            raise UserError(
                f"format={kind}: torch {torch.__version__} cannot export {name} "
                f"({type(error).__name__}: {reason(error)[:300]})"
            ) from error


def _to_onnx(program: ExportedProgram, model: Exportable, described: Mapping[str, Any]) -> bytes:
    exported = torch.onnx.export(
        program, (model.example,), dynamic_shapes=({0: "batch"},), input_names=[model.input],
        output_names=[model.output], verbose=False,
    )  # fmt: skip
    assert exported is not None
    for key, value in described.items():
        exported.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
    return exported.model_proto.SerializeToString()


def _to_archive(program: ExportedProgram, described: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={METADATA: json.dumps(described)})
    return file.getvalue()


def compare(content: bytes, kind: Format, model: Exportable, batches: Iterable[Any]) -> tuple[int, float]:
    """Return the number of compared samples, up to ``COMPARED``, and the largest absolute difference of their outputs.

    The first sample is compared alone, because a model may have lost its variable batch size.

    Raises:
        UserError: there is no sample, or a difference exceeds ``TOLERANCE``.
    """
    run = _onnx_model(content, model) if kind == "onnx" else _torch_model(content)
    count, differences = 0, [torch.zeros(())]
    for batch in batches:
        raw, original = model.raw(batch)[: COMPARED - count], model.original(batch)[: COMPARED - count]
        with torch.no_grad():
            output = torch.cat([run(rows) for rows in (raw[:1], raw[1:]) if len(rows)])
        count += len(raw)
        differences.append((output - original).abs().max())
        largest = float(torch.stack(differences).max())  # NaN if one of them is
        if not largest <= TOLERANCE:
            raise UserError(
                f"format={kind}: the output of the exported model differs from the original's by {largest:.2g}; "
                f"expected {TOLERANCE:g} at most; no file was written"
            )
        if count >= COMPARED:
            break
    if not count:
        raise UserError(f"format={kind}: there is no sample to compare the exported model with the original")
    return count, largest


def _onnx_model(content: bytes, model: Exportable) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(raw: Tensor) -> Tensor:
        return torch.from_numpy(session.run([model.output], {model.input: raw.numpy()})[0])

    return run


def _torch_model(content: bytes) -> nn.Module:
    with _quiet():
        return torch.export.load(io.BytesIO(content)).module()


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the warnings and messages of torch and onnxscript. Errors are still raised."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
