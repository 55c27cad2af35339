"""What an agent knows of the calls to one method under the policy in force."""

from typing import Final

from bus_mesh.gates.gate import Path
from bus_mesh.protocol.frames import Head

_METADATA: Final = "metadata."


class Route:
    """The path of the calls to one (service, method), and what policy says of them. Seconds throughout.

    `key` is where a call says what its instance is chosen by: `key`, or `metadata.` and a name.
    """

    __slots__ = ("idempotent", "key", "longest", "path", "timeout")

    def __init__(
        self, path: Path, idempotent: bool | None, timeout: float | None, longest: float, key: str = "key"
    ) -> None:
        self.path = path
        self.idempotent = idempotent
        self.timeout = timeout
        self.longest = longest
        self.key = key

    def key_of(self, head: Head) -> str | None:
        """Return what the instance of a call is chosen by, None where the call does not say."""
        if self.key.startswith(_METADATA):
            metadata = head.get("metadata")
            said = metadata.get(self.key.removeprefix(_METADATA)) if isinstance(metadata, dict) else None
        else:
            said = head.get(self.key)
        return said if isinstance(said, str) else None
