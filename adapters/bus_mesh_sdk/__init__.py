"""What apps import to call and to serve through bus-mesh.

class Orders(Service, name="orders", version="1.2.0"):      # the contract, shared by both sides
    @rpc(idempotent=True)
    async def get(self, id: str) -> Order: raise NotImplementedError

async with Mesh.connect(app="orders") as mesh:              # who serves
    await mesh.serve(OrdersImpl(db))
    await mesh.wait_closed()

async with Mesh.connect(app="web") as mesh:                 # who calls
    order = await mesh.client(Orders).get("1")
"""

from bus_mesh.protocol.errors import (
    AgentAway,
    BusStalled,
    Cancelled,
    CircuitOpen,
    Code,
    DeadlineExceeded,
    Draining,
    FailedPrecondition,
    Fault,
    Internal,
    InvalidArgument,
    InvalidName,
    KeyReused,
    MeshError,
    NoInstances,
    NotFound,
    OutcomeUnknown,
    PayloadTooLarge,
    PermissionDenied,
    Ran,
    RateLimited,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from bus_mesh_sdk._context import Context, current, options
from bus_mesh_sdk._health import health
from bus_mesh_sdk._mesh import Mesh
from bus_mesh_sdk._service import Service, blocking, rpc
from bus_mesh_sdk._serving import Serving
from bus_mesh_sdk.sync import SyncMesh

__all__ = [
    "AgentAway",
    "BusStalled",
    "Cancelled",
    "CircuitOpen",
    "Code",
    "Context",
    "DeadlineExceeded",
    "Draining",
    "FailedPrecondition",
    "Fault",
    "Internal",
    "InvalidArgument",
    "InvalidName",
    "KeyReused",
    "Mesh",
    "MeshError",
    "NoInstances",
    "NotFound",
    "OutcomeUnknown",
    "PayloadTooLarge",
    "PermissionDenied",
    "Ran",
    "RateLimited",
    "ResourceExhausted",
    "Service",
    "Serving",
    "SyncMesh",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "blocking",
    "current",
    "health",
    "options",
    "rpc",
]
