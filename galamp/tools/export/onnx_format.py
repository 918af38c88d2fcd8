"""ONNX, by PyTorch's exporter, read again by onnxruntime.

Runs in `galamp export`; needs the packages of the extra `onnx`.
"""

from __future__ import annotations

import importlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import torch

from galamp.tools.evaluation.policy_module import PolicyModule
from galamp.tools.export.formats import INPUTS, OUTPUTS, Array, Example, Format, Function

OPSET = 18
"""Version of the operators: that of ONNX 1.13, of 2022, so that older runtimes read it, too."""


class OnnxFormat(Format):
    """ONNX: network and weights in one file, for batches of any size."""

    ending: ClassVar[str] = ".onnx"
    needs: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")
    extra: ClassVar[str] = "onnx"

    def written(self, module: PolicyModule, example: Example) -> bytes:
        """See `Format.written`."""
        arrays = example.arrays
        batch = torch.export.Dim("batch")
        with _quiet(), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "policy.onnx"
            torch.onnx.export(
                module,
                tuple(map(torch.from_numpy, arrays)),
                path,
                input_names=INPUTS[: len(arrays)],
                output_names=OUTPUTS[: len(arrays) + 1],
                # One batch size for all inputs; an array's other sides are fixed.
                dynamic_shapes=tuple({0: batch} for _ in arrays),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
            return path.read_bytes()

    def read(self, content: bytes, module: PolicyModule) -> Function:
        """See `Format.read`."""
        runtime = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

        def compute(observations: Array, states: Array | None) -> list[Array]:
            given = zip(INPUTS, (observations, states), strict=True)
            found: list[Array] = session.run(
                None, {n: each for n, each in given if each is not None}
            )
            return found

        return compute


@contextmanager
def _quiet() -> Iterator[None]:
    """Context without the exporter's remarks on packages that it could use, too."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(level)
