"""Whether this node may call in the name of an app: what its certificate lets it, and until that ends."""

from collections.abc import Callable

from bus_mesh.identity.certificate import NodeCertificate
from bus_mesh.protocol.errors import FailedPrecondition, MeshError, PermissionDenied, Ran


class CertificateEnded(FailedPrecondition, reason="CERTIFICATE_ENDED"):
    """This node's certificate has ended: no other node believes what it says."""


class Standing:
    """What this node may do by its present `certificate()`; `ended()` is told once when that runs out."""

    def __init__(
        self, certificate: Callable[[], NodeCertificate], wall_us: Callable[[], int], ended: Callable[[], None]
    ) -> None:
        self._certificate = certificate
        self._wall_us = wall_us
        self._ended = ended
        self._over = False

    def __repr__(self) -> str:
        return f"Standing({self._certificate().node}, {'over' if self._over else 'good'})"

    def unfit(self, app: str) -> MeshError | None:
        """Return why this node may not call in the name of `app`, None when its certificate lets it."""
        certificate = self._certificate()
        if app not in certificate.call_as:
            text = f"this node may not call in the name of {app}: admit it with --call-as {app}"
            return PermissionDenied(text, ran=Ran.NO)
        if self._wall_us() >= certificate.not_after_us:
            text = f"the certificate of {certificate.node} has ended, and nobody believes it: is a policy agent there?"
            return CertificateEnded(f"{text} `busmesh check` says more", ran=Ran.NO)
        return None

    def look(self) -> None:
        """Tell when the certificate has run out since the last look; to be called every second."""
        over = self._wall_us() >= self._certificate().not_after_us
        if over and not self._over:
            self._ended()
        self._over = over
