"""What V-trace brings besides its code: its settings beyond those of A2C.

Read while the command line is parsed, so no torch here; the algorithm itself is `vtrace.VTrace`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from galamp.algorithms.a2c_config import A2CConfig
from galamp.core.algorithm_config import algorithm_option
from galamp.core.settings import option


@dataclass(frozen=True)
class VTraceConfig(A2CConfig):
    """Actor-critic of IMPALA (Espeholt et al. 2018) with the settings of GALA's A2C."""

    gauges: ClassVar[Mapping[str, str]] = {
        **A2CConfig.gauges,
        "behaviour_kl": "mean KL divergence of the policy that acted from that which learns, in "
        "nats, estimated from the actions taken",
        "clipped_ratios": "share of the ratios pi / mu above --vtrace-rho-max",
    }

    corrects_lag: ClassVar[bool] = True

    algorithm: str = algorithm_option("vtrace")

    vtrace_lambda: float = option(1.0, "lambda of the traces", low=0.0, high=1.0)
    vtrace_rho_max: float = option(
        1.0, "bound of the ratio pi / mu in the value's target and in the policy gradient", low=0.0
    )
    vtrace_c_max: float = option(1.0, "bound of the ratio pi / mu in the traces", low=0.0)
    vtrace_alpha: float = option(
        1.0, "weight of the bounded ratios beside the whole ones (leaky V-trace)", low=0.0, high=1.0
    )
