"""Nothing below may outlive the caller, and nothing runs that came too late."""

from bus_mesh.gates.gate import Flight, Gate, Refuse
from bus_mesh.protocol.errors import DeadlineExceeded, Ran


class Deadline(Gate):
    """Refuses a call whose time is over. The driver's wheel ends those whose time runs out later."""

    def enter(self, call: Flight, now: float) -> Refuse | None:
        """Let the call on while it has time left."""
        if now < call.deadline:
            return None
        late = (now - call.deadline) * 1000
        text = f"{call.service}/{call.method} arrived {late:.0f} ms after its deadline and was not run"
        return Refuse(DeadlineExceeded(text, ran=Ran.NO))
