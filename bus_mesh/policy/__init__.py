"""What people write about who may call whom and how, and the answers that follow from it. Pure: text in, answers out.

`parse` reads documents, `PolicySet` holds those in force, `Access` says who may call.
"""

from bus_mesh.policy.access import DEFAULT_DENY, NO_POLICY_LOADED, Access, Verdict
from bus_mesh.policy.bundle import NO_POLICY, PolicySet, ServicePolicy
from bus_mesh.policy.load import PolicyError, parse
from bus_mesh.policy.models import RESERVED, Balance, Mesh, Method, Mode, Revocation, Rule, Service, Traffic
from bus_mesh.policy.problems import Problem

__all__ = [
    "DEFAULT_DENY",
    "NO_POLICY",
    "NO_POLICY_LOADED",
    "RESERVED",
    "Access",
    "Balance",
    "Mesh",
    "Method",
    "Mode",
    "PolicyError",
    "PolicySet",
    "Problem",
    "Revocation",
    "Rule",
    "Service",
    "ServicePolicy",
    "Traffic",
    "Verdict",
    "parse",
]
