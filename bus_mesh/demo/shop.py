"""What the services of the shop promise each other: the contracts, shared by both sides of every call."""

from bus_mesh_sdk import Code, MeshError, Service, rpc
from pydantic import BaseModel


class NewOrder(BaseModel):
    sku: str
    qty: int = 1


class Order(NewOrder):
    id: str
    served_by: str
    """The instance that keeps it."""


class Receipt(BaseModel):
    sku: str
    qty: int
    left: int


class OutOfStock(MeshError, code=Code.FAILED_PRECONDITION, reason="OUT_OF_STOCK"):
    """There are fewer left than were asked for."""


class Stock(Service, name="stock", version="1.0.0"):
    @rpc(timeout=0.5)
    async def reserve(self, sku: str, qty: int = 1) -> Receipt:
        """Take `qty` of `sku` out of the shelf."""
        raise NotImplementedError


class Orders(Service, name="orders", version="1.2.0"):
    @rpc(idempotent=True, timeout=0.5)
    async def get(self, id: str) -> Order:
        """Return an order."""
        raise NotImplementedError

    @rpc(timeout=1.0)
    async def create(self, order: NewOrder) -> Order:
        """Reserve the goods and keep the order."""
        raise NotImplementedError
