"""What an app's author types; a type checker has nothing to say about it."""

from typing import assert_type

from bus_mesh_sdk import Code, Mesh, MeshError, Service, Serving, SyncMesh, blocking, current, health, options, rpc
from pydantic import BaseModel


class NewOrder(BaseModel):
    sku: str
    qty: int = 1


class Order(NewOrder):
    id: str


class OutOfStock(MeshError, code=Code.FAILED_PRECONDITION, reason="SAMPLE_OUT_OF_STOCK"):
    """Nothing left."""


class Orders(Service, name="orders", version="1.2.0"):
    @rpc(idempotent=True, timeout=0.5)
    async def get(self, id: str) -> Order:
        raise NotImplementedError

    @rpc
    async def create(self, order: NewOrder, *, dry_run: bool = False) -> Order:
        raise NotImplementedError


class OrdersImpl(Orders):
    def __init__(self, known: dict[str, Order]) -> None:
        self.known = known

    @blocking
    def get(self, id: str) -> Order:
        return self.known[id]

    async def create(self, order: NewOrder, *, dry_run: bool = False) -> Order:
        if order.qty > 10:
            raise OutOfStock(f"asked by {current().caller} with {current().remaining()} s left")
        return Order(id="1", **order.model_dump())

    @health
    async def well(self) -> None:
        self.known.clear()


class OrdersOnDisk(OrdersImpl):
    @health
    @blocking
    def well(self) -> None:
        self.known.clear()


async def serve() -> None:
    async with Mesh.connect(app="orders") as mesh:
        serving = await mesh.serve(OrdersImpl({}), labels={"zone": "a"}, concurrency=8)
        assert_type(serving, Serving)
        await mesh.wait_closed()


async def call() -> None:
    mesh = await Mesh.connect(app="web", patience=1.0)
    orders = mesh.client(Orders, timeout=1.0)
    assert_type(orders, Orders)
    assert_type(await orders.get("1"), Order)
    with options(timeout=0.2, metadata={"tenant": "a"}, key="user-7"):
        assert_type(await orders.create(NewOrder(sku="tea"), dry_run=True), Order)
    assert_type(await mesh.call(Orders.get, "1"), Order)
    assert_type(await mesh.call(Orders.create, NewOrder(sku="tea"), dry_run=True), Order)
    found = await mesh.call("orders", "get", {"id": "1"}, timeout=3.0)
    print(found["id"])
    _, instance = await mesh.call_with_instance("orders", "get", {"id": "1"})
    assert_type(instance, str)
    await mesh.close()


def blocking_call() -> Order:
    with SyncMesh.connect(app="job") as mesh:
        mesh.call("orders", "get", {"id": "1"})
        return mesh.call(Orders.get, "1")
