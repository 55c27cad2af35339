"""`policy.yaml`: the settings of a policy agent.

    mesh: shop                                # required: mesh, node, bus
    node: control-1
    bus: {url: nats://127.0.0.1:4222}
    identity: identity                        # node.key (0600), node.chain, root.pub, as every node has
    signer: signer                            # policy.key (0600), policy.delegation
    issuer: issuer                            # issuer.key (0600), issuer.delegation; without it nobody is admitted
    users: users                              # account_signing.seed (0600), account.jwt: makes users of the bus
    state: /var/lib/busmesh/policy            # store.sqlite and its lock; a second policy agent names the same one
    initial: policy                           # documents of the first bundle, while the store has none
    http: 127.0.0.1:9466                      # port 0 takes a free one; off
    log: {level: info, format: auto}

Relative paths start at the file.
"""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from bus_mesh.config import Address, Bus, Log, PlacedPath, load, read_address
from bus_mesh.policy.models import Document, Name

__all__ = ["PolicyAgentConfig", "load_policy_agent"]


class PolicyAgentConfig(Document):
    """The settings of one policy agent; paths are absolute if the file's is."""

    mesh: Name
    node: Name
    bus: Bus
    identity: PlacedPath = Field(default=Path("identity"), validate_default=True)
    signer: PlacedPath = Field(default=Path("signer"), validate_default=True)
    issuer: PlacedPath | None = None
    """A directory with issuer.key and issuer.delegation; None admits and renews nobody."""
    users: PlacedPath | None = None
    """A directory with account_signing.seed and account.jwt; None where the bus wants no users."""
    state: PlacedPath = Field(default=Path("state"), validate_default=True)
    initial: PlacedPath | None = None
    http: Annotated[Address | None, BeforeValidator(read_address)] = Address("127.0.0.1", 9466)
    log: Log = Log()

    @property
    def store(self) -> Path:
        """The SQLite file."""
        return self.state / "store.sqlite"


def load_policy_agent(path: Path) -> PolicyAgentConfig:
    """Return the settings of a `policy.yaml`; raise ConfigError with everything that is wrong in it."""
    return load(path, PolicyAgentConfig)
