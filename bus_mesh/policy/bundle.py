"""The policy in force: a set of documents under one number, laid out so that each question is one look-up."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from bus_mesh.policy.load import PolicyError
from bus_mesh.policy.models import Health, Mesh, PolicyDocument, Revocation, Service
from bus_mesh.policy.problems import Problem
from bus_mesh.policy.traffic import Balance, Breaker, Budget, Hash, Limit, Mirror, Off, Rate, Retry
from bus_mesh.policy.units import CALL_LONGEST

__all__ = ["NO_POLICY", "PolicySet", "ServicePolicy"]

_RETRY: Final = Retry()
_ONE_TRY: Final = Retry(tries=1)
_BUDGET: Final = Budget()
_BREAKER: Final = Breaker()
_LIMIT: Final = Limit()


class ServicePolicy:
    """What policy says of the calls to one service: the nearest word holds, a method's, the service's, the mesh's."""

    __slots__ = ("document", "longest", "mesh", "name")

    def __init__(self, document: Service, mesh: Mesh) -> None:
        self.name = document.name
        self.document = document
        self.mesh = mesh
        self.longest = document.traffic.longest_timeout or mesh.traffic.longest_timeout or CALL_LONGEST
        """Seconds that no call may exceed: a slow service may raise the cap that the mesh gives to all others."""

    def traffic(self, part: str, method: str) -> Any:
        """Return the nearest word on a part of `traffic`, None where nobody says anything."""
        if (said := self.of_method(part, method)) is not None:
            return said
        said = getattr(self.document.traffic, part)
        return getattr(self.mesh.traffic, part) if said is None else said

    def of_method(self, part: str, method: str) -> Any:
        """Return what the method itself says of a part, None where it leaves that to the service."""
        said = self.document.methods.get(method)
        return None if said is None else getattr(said, part, None)

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

    def traffic(self, part: str, service: str, method: str = "") -> Any:
        """Return the nearest word on a part of `traffic`: the method's, the service's, the mesh's; None without one."""
        policy = self.services.get(service)
        return getattr(self.mesh.traffic, part) if policy is None else policy.traffic(part, method)

    def scope(self, part: str, service: str, method: str) -> str:
        """Return the method where it has a word of its own on a part, "" where all such methods share one."""
        policy = self.services.get(service)
        return "" if policy is None or policy.of_method(part, method) is None else method

    def timeout(self, service: str, method: str) -> float | None:
        """Return the seconds for a call that says nothing itself; None where policy says nothing either."""
        seconds: float | None = self.traffic("timeout", service, method)
        return seconds

    def longest(self, service: str) -> float:
        """Return the seconds that no call to the service may exceed."""
        policy = self.services.get(service)
        return (self.mesh.traffic.longest_timeout or CALL_LONGEST) if policy is None else policy.longest

    def idempotent(self, service: str, method: str) -> bool | None:
        """Tell whether policy calls the method idempotent; None leaves it to the contract."""
        policy = self.services.get(service)
        said: bool | None = None if policy is None else policy.of_method("idempotent", method)
        return said

    def signed(self, service: str, method: str) -> bool:
        """Tell whether calls to the method and their answers are signed, so that they prove to others who said what."""
        policy = self.services.get(service)
        said = policy and (policy.of_method("envelope", method) or policy.document.envelope)
        return (said or self.mesh.envelope) == "signed"

    def exposed(self, service: str, method: str) -> bool:
        """Tell whether plain clients of NATS may ask for the method, as the caller `anonymous`."""
        policy = self.services.get(service)
        said = policy and (policy.of_method("expose", method) or policy.document.expose)
        return said == "micro"

    def tapped(self, service: str, method: str) -> bool:
        """Tell whether who watches calls of the method may see what is in them."""
        policy = self.services.get(service)
        said = (policy and (policy.of_method("tap", method) or policy.document.tap)) or self.mesh.tap
        return said is not None and said.payload

    def retry(self, service: str, method: str) -> Retry:
        """Return how often a call is tried; `off` is one try, and moves from who is leaving all the same."""
        said: Retry | Off | None = self.traffic("retry", service, method)
        return _ONE_TRY if isinstance(said, Off) else said or _RETRY

    def budget(self, service: str) -> Budget:
        """Return how many retries there may be to all calls of an agent to the service."""
        said: Budget | None = self.traffic("budget", service)
        return said or _BUDGET

    def breaker(self, service: str, method: str) -> Breaker | None:
        """Return when an instance is given a rest; None where that is off."""
        said: Breaker | Off | None = self.traffic("breaker", service, method)
        return None if isinstance(said, Off) else said or _BREAKER

    def limit(self, service: str, method: str) -> Limit | None:
        """Return how many calls an instance runs at once; None where that is off."""
        said: Limit | Off | None = self.traffic("limit", service, method)
        return None if isinstance(said, Off) else said or _LIMIT

    def rates(self, service: str, method: str) -> tuple[Rate, ...]:
        """Return how many calls a second a receiving agent takes."""
        said: tuple[Rate, ...] | None = self.traffic("rate", service, method)
        return said or ()

    def mirror(self, service: str, method: str) -> Mirror | None:
        """Return where calls are copied to: never to the service itself, where the mesh's word names it for all."""
        said: Mirror | None = self.traffic("mirror", service, method)
        return None if said is None or said.to == service else said

    def balance(self, service: str, method: str) -> Balance | Hash:
        """Return how the instance for a call is chosen."""
        said: Balance | Hash | None = self.traffic("balance", service, method)
        return said or Balance.QUEUE

    def health(self, service: str) -> Health:
        """Return how an instance of the service that has a health check is asked whether it is well."""
        policy = self.services.get(service)
        said = None if policy is None else policy.document.health
        return said or self.mesh.health or Health()

    def __repr__(self) -> str:
        return f"PolicySet(number {self.number}, {len(self.documents)} documents)"


def _twice(first: PolicyDocument, second: PolicyDocument) -> Problem:
    source, _, line = second.place.rpartition(":")
    what = f"{second.kind} {second.name}" if isinstance(second, Service) else f"the {second.kind} document"
    where = first.place or "above"
    return Problem(source, int(line or 0), "name", f"{what} stands twice, first at {where}", "merge the two")


NO_POLICY: Final = PolicySet.of(())
"""What holds before any policy was loaded: nothing is allowed."""
