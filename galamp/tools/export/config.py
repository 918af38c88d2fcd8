"""Settings of an export: default, range and meaning of each."""

from __future__ import annotations

from dataclasses import dataclass

from galamp.core.settings import option
from galamp.tools.evaluation.config import EvaluationConfig, wrapper_option

FORMATS = {
    "onnx": "galamp.tools.export.onnx_format:OnnxFormat",
    "torchscript": "galamp.tools.export.torch_formats:TorchScriptFormat",
    "safetensors": "galamp.tools.export.torch_formats:SafetensorsFormat",
}
"""Format -> its class, loaded when asked for; a new one is a file and a line here."""


@dataclass(frozen=True)
class ExportConfig:
    """Settings of an export."""

    format: str = option(
        "onnx",
        "onnx: network and weights, for any runtime of ONNX; torchscript: the same for PyTorch and "
        "C++; safetensors: the weights alone",
        names=tuple(FORMATS),
    )
    learner: str = option("mean", "whose parameters: a learner's rank, or the mean of all")
    which: str = option(
        "",
        "best or latest: checkpoint of a run folder (default: the best if there is one, else the "
        "latest); or, as before --learner was there, whose parameters",
    )
    env_id: str = option(EvaluationConfig.env_id, "as for galamp eval")
    wrapper: tuple[str, ...] = wrapper_option()
    network: str = option(EvaluationConfig.network, "as for galamp eval")
    seed: int = option(1, "seed of the games whose observations it is verified on", low=0)
