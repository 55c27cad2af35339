"""Whether a call is signed where policy says `envelope: signed`: without that there is no proof of who asked for what.

Stands at the receiver only, and only on the paths of methods that policy says it of. At the caller's agent the outbox
signs, and an answer that is not signed is no answer.
"""

from bus_mesh.gates.gate import Flight, Gate, Refuse
from bus_mesh.protocol.errors import PermissionDenied, Ran


class SignatureRequired(PermissionDenied, reason="SIGNATURE_REQUIRED"):
    """Policy at the receiver says `envelope: signed`, and the caller's agent has not signed the call."""


class Signature(Gate):
    """Refuses a call that came in an envelope which its sender did not sign."""

    def enter(self, call: Flight, now: float) -> Refuse | None:
        """Let a signed call on."""
        if call.proof is not None:
            return None
        text = (
            f"{call.service}/{call.method} takes signed calls only, and this one was not signed: give the caller's "
            "node the policy that says envelope: signed"
        )
        return Refuse(SignatureRequired(text, details={"side": "inbound"}, ran=Ran.NO))
