"""What the quantities of gossip are called on screen, in reports and plots: as in metrics.jsonl."""

from __future__ import annotations

CONSENSUS_DISTANCE = "consensus distance"
PAIRWISE_DISTANCE = "pairwise distance"
CERTIFICATE = "certificate"
CERTIFICATE_RATIO = "certificate ratio"
RADIUS = "radius"
GRADIENT_CORRELATION = "gradient correlation"
