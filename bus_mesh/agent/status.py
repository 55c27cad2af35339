"""What an agent tells of itself when it is asked how it is."""

from typing import TYPE_CHECKING

from bus_mesh import __version__

if TYPE_CHECKING:
    from bus_mesh.agent.node import Node
    from bus_mesh.identity.keyring import Now


def status_of(node: "Node", now: "Now", *, loaded: bool) -> dict[str, object]:
    """What `busmesh status` and `/readyz` tell of this agent; `misfits` are nodes that it hears and cannot believe."""
    office, outward, misfits = node.control.office, node.outbound.outward, node.keyring.misfits.lately(now)
    return {
        "node": node.own.node,
        "mesh": node.own.mesh,
        "version": __version__,
        "bus": node.bus.state.value,
        "outside": outward.state.value if outward is not None else None,
        "outside_ends_us": outward.ends_us() if outward is not None else 0,
        "rtt_ms": round(node.bus.rtt * 1000, 3),
        "policy": node.access.number,
        "policy_loaded": loaded,
        "policy_state": node.freshness().value,
        "policy_agent_key": office.key_id.hex() if office is not None else "",
        "sessions": len(node.door.sessions),
        "instances": len(node.announcer.instances),
        "inflight": len(node.outbound.awaiting),
        "serving": node.inbound.calls,
        "draining": node.draining,
        "revoked": node.barred is not None,
        "misfits": [{"node": one.node, "reason": str(one.reason), "by_us": one.by_us} for one in misfits],
        "cert_issued_us": node.own.certificate.not_before_us,
        "cert_expires_us": node.own.certificate.not_after_us,
    }
