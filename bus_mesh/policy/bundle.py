"""The policy in force: a set of documents under one number, laid out so that each question is one look-up."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from bus_mesh.policy.load import PolicyError
from bus_mesh.policy.models import Balance, Health, Mesh, PolicyDocument, Revocation, Service
from bus_mesh.policy.problems import Problem
from bus_mesh.policy.traffic import Budget, Off, Retry
from bus_mesh.policy.units import CALL_LONGEST

__all__ = ["NO_POLICY", "PolicySet", "ServicePolicy"]

_RETRY: Final = Retry()
_ONE_TRY: Final = Retry(tries=1)


class ServicePolicy:
    """What policy says about the calls to one service. Seconds throughout."""

    __slots__ = (
        "_envelopes",
        "_idempotent",
        "_retries",
        "_timeouts",
        "balance",
        "budget",
        "document",
        "envelope",
        "health",
        "longest",
        "name",
        "retry_of_service",
        "timeout_of_service",
    )

    def __init__(self, document: Service, mesh: Mesh) -> None:
        traffic = document.traffic
        self.name = document.name
        self.document = document
        # A hash is refused before it comes here: no agent enforces it yet.
        self.balance = traffic.balance if isinstance(traffic.balance, Balance) else Balance.QUEUE
        # The nearer word holds: a slow service may raise the cap that the mesh gives to all others.
        self.longest = traffic.longest_timeout or mesh.traffic.longest_timeout or CALL_LONGEST
        self.timeout_of_service = traffic.timeout
        self._timeouts = {name: method.timeout or traffic.timeout for name, method in document.methods.items()}
        self._idempotent = {name: method.idempotent for name, method in document.methods.items()}
        self.budget = traffic.budget or mesh.traffic.budget or Budget()
        self.retry_of_service = _retry(traffic.retry or mesh.traffic.retry)
        self._retries = {
            name: _retry(method.retry) for name, method in document.methods.items() if method.retry is not None
        }
        self.health = document.health or mesh.health or Health()
        self.envelope = document.envelope or mesh.envelope
        self._envelopes = {name: method.envelope or self.envelope for name, method in document.methods.items()}

    def timeout(self, method: str) -> float | None:
        """Return the seconds for a call that says nothing itself; None where policy says nothing either."""
        return self._timeouts.get(method, self.timeout_of_service)

    def idempotent(self, method: str) -> bool | None:
        """Tell whether policy calls the method idempotent; None leaves it to the contract."""
        return self._idempotent.get(method)

    def retry(self, method: str) -> Retry:
        """Return how often a call is tried: the method's word, the service's, the mesh's."""
        return self._retries.get(method, self.retry_of_service)

    def signed(self, method: str) -> bool:
        """Tell whether calls to the method and their answers are signed: its own word, the service's, the mesh's."""
        return self._envelopes.get(method, self.envelope) == "signed"

    def __repr__(self) -> str:
        access = self.document.access
        return f"ServicePolicy({self.name}: {len(access.allow)} allow, {len(access.deny)} deny, {access.mode})"


class PolicySet:
    """Documents by name under a number; 0 for a directory of files, which nobody numbered."""

    __slots__ = ("documents", "mesh", "number", "revocation", "services")

    def __init__(
        self, services: Sequence[Service], mesh: Mesh | None, number: int, revocation: Revocation | None = None
    ) -> None:
        self.number = number
        said: tuple[Mesh | Revocation | None, ...] = (mesh, revocation)
        self.documents: tuple[PolicyDocument, ...] = (*services, *(one for one in said if one is not None))
        self.mesh = mesh or Mesh()
        self.revocation = revocation or Revocation()
        self.services: Mapping[str, ServicePolicy] = MappingProxyType(
            {service.name: ServicePolicy(service, self.mesh) for service in services}
        )

    @classmethod
    def of(cls, documents: Iterable[PolicyDocument], number: int = 0) -> "PolicySet":
        """Return the set of these documents; raise PolicyError if two have one name, or there are two of kind Mesh."""
        first: dict[tuple[str, str], PolicyDocument] = {}
        problems = []
        for document in documents:
            # There is one mesh, so two documents about it contradict each other whatever they are called.
            identity = (document.kind, document.name if isinstance(document, Service) else "")
            other = first.setdefault(identity, document)
            if other is not document:
                problems.append(_twice(other, document))
        if problems:
            raise PolicyError(problems)
        services = [document for document in first.values() if isinstance(document, Service)]
        mesh = next((document for document in first.values() if isinstance(document, Mesh)), None)
        revocation = next((document for document in first.values() if isinstance(document, Revocation)), None)
        return cls(services, mesh, number, revocation)

    @property
    def empty(self) -> bool:
        """Whether nothing was loaded at all: everything is denied, and the reason is not any rule."""
        return not self.documents

    def timeout(self, service: str, method: str) -> float | None:
        """Return the seconds for a call that says nothing itself; None where policy says nothing either."""
        policy = self.services.get(service)
        return None if policy is None else policy.timeout(method)

    def longest(self, service: str) -> float:
        """Return the seconds that no call to the service may exceed."""
        policy = self.services.get(service)
        return (self.mesh.traffic.longest_timeout or CALL_LONGEST) if policy is None else policy.longest

    def idempotent(self, service: str, method: str) -> bool | None:
        """Tell whether policy calls the method idempotent; None leaves it to the contract."""
        policy = self.services.get(service)
        return None if policy is None else policy.idempotent(method)

    def signed(self, service: str, method: str) -> bool:
        """Tell whether calls to the method and their answers are signed, so that they prove to others who said what."""
        policy = self.services.get(service)
        return self.mesh.envelope == "signed" if policy is None else policy.signed(method)

    def retry(self, service: str, method: str) -> Retry:
        """Return how often a call is tried, and after which pauses."""
        policy = self.services.get(service)
        return _retry(self.mesh.traffic.retry) if policy is None else policy.retry(method)

    def budget(self, service: str) -> Budget:
        """Return how many retries there may be to all calls of an agent to the service."""
        policy = self.services.get(service)
        return (self.mesh.traffic.budget or Budget()) if policy is None else policy.budget

    def balance(self, service: str) -> Balance:
        """Return how the instance for a call is chosen."""
        policy = self.services.get(service)
        return Balance.QUEUE if policy is None else policy.balance

    def health(self, service: str) -> Health:
        """Return how an instance of the service that has a health check is asked whether it is well."""
        policy = self.services.get(service)
        return (self.mesh.health or Health()) if policy is None else policy.health

    def __repr__(self) -> str:
        return f"PolicySet(number {self.number}, {len(self.documents)} documents)"


def _retry(said: Retry | Off | None) -> Retry:
    """Return what a document says of retries; `off` is one try, and moves from who is leaving all the same."""
    if said is None:
        return _RETRY
    return said if isinstance(said, Retry) else _ONE_TRY


def _twice(first: PolicyDocument, second: PolicyDocument) -> Problem:
    source, _, line = second.place.rpartition(":")
    what = f"{second.kind} {second.name}" if isinstance(second, Service) else f"the {second.kind} document"
    where = first.place or "above"
    return Problem(source, int(line or 0), "name", f"{what} stands twice, first at {where}", "merge the two")


NO_POLICY: Final = PolicySet.of(())
"""What holds before any policy was loaded: nothing is allowed."""
