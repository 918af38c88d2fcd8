"""Access to a node's zenoh session: mutual TLS, and who may send what, by the certificate's name.

    NodeKeys --secured--> settings of zenoh: a node may put under its own number only

Everything that is not allowed here is denied. See zenoh's manual on TLS and access control.
"""

from __future__ import annotations

from typing import Any

from galamp.core.node_keys import NodeKeys, name_of
from galamp.gossip.cluster.port import PortContext

TLS = "transport/link/tls/"
KINDS = ("in", "hear", "here", "ask", "out")
"""Rules of a node: what it may put, subscribe to, declare of itself, ask for, and be sent."""
_TOKENS = ["liveliness_token", "declare_liveliness_subscriber", "liveliness_query"]


def secured(context: PortContext, keys: NodeKeys, prefix: str) -> dict[str, Any]:
    """Return the settings of a session whose keys begin with `prefix`.

    The authority signs for the nodes of one run only, so a host's name proves nothing more.
    """
    others = [node for node in range(context.nodes) if node != context.node]
    rules = [rule for other in others for rule in _rules(context.node, other, prefix)]
    return {
        TLS + "root_ca_certificate": keys.authority,
        TLS + "listen_certificate": keys.certificate,
        TLS + "listen_private_key": keys.key,
        TLS + "connect_certificate": keys.certificate,
        TLS + "connect_private_key": keys.key,
        TLS + "enable_mtls": True,
        TLS + "verify_name_on_connect": False,
        "access_control": {
            "enabled": True,
            "default_permission": "deny",
            "rules": rules,
            "subjects": [{"id": name_of(n), "cert_common_names": [name_of(n)]} for n in others],
            "policies": [
                {"subjects": [name_of(n)], "rules": [f"{kind}-{n}" for kind in KINDS]}
                for n in others
            ],
        },
    }


def _rules(own: int, other: int, prefix: str) -> list[dict[str, Any]]:
    """Return what another node may send to this one, declare here, and be sent."""
    p = prefix
    sends = [f"{p}/v/{own}/{other}/*", f"{p}/t/{own}/{other}", f"{p}/f/{own}/{other}/*"]
    hears = [f"{p}/{kind}/{other}/**" for kind in "vtf"]
    return [
        _rule(f"in-{other}", "ingress", ["put"], sends),
        _rule(f"hear-{other}", "ingress", ["declare_subscriber"], hears),
        _rule(f"here-{other}", "ingress", ["liveliness_token"], [f"{p}/n/{other}/*"]),
        _rule(f"ask-{other}", "ingress", _TOKENS[1:], [f"{p}/n/*/*"]),
        _rule(f"out-{other}", "egress", ["put", "declare_subscriber", *_TOKENS], [f"{p}/**"]),
    ]


def _rule(name: str, flow: str, messages: list[str], keys: list[str]) -> dict[str, Any]:
    allowed = {"permission": "allow", "flows": [flow], "messages": messages, "key_exprs": keys}
    return {"id": name, **allowed}
