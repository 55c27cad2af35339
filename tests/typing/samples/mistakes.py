"""Mistakes, planted: a comment at the end of a line names what a type checker must find there."""

from bus_mesh_sdk import Mesh, Service, SyncMesh, blocking, options, rpc
from correct import NewOrder, Order, Orders, OrdersImpl


class WrongResult(OrdersImpl):
    async def create(self, order: NewOrder, *, dry_run: bool = False) -> str:  # E: override
        return "1"


class WrongParameter(OrdersImpl):
    @blocking
    def get(self, id: int) -> Order:  # E: override
        return self.known[str(id)]


class NotAsync(Service, name="not-async"):
    @rpc  # E: type-var
    def get(self, id: str) -> str:
        raise NotImplementedError


class WrongMark(Service, name="wrong-mark"):
    @rpc(idempotent="yes")  # E: call-overload untyped-decorator
    async def get(self, id: str) -> str:
        raise NotImplementedError


async def wrong(mesh: Mesh) -> None:
    orders = mesh.client(Orders)
    await orders.get(1)  # E: arg-type
    await orders.get()  # E: call-arg
    await orders.create(NewOrder(sku="tea"), True)  # E: call-arg
    text: str = await orders.get("1")  # E: assignment
    print(orders.get("1").sku)  # E: attr-defined
    orders.get("1")  # E: unused-coroutine
    print((await orders.get("1")).price)  # E: attr-defined
    await mesh.call(Orders.get, 1)  # E: call-overload
    await mesh.call("orders")  # E: call-overload
    mesh.call(Orders.get, "1")  # E: unused-coroutine
    mesh.client(NewOrder)  # E: type-var
    await mesh.serve(object())  # E: arg-type
    with options(metadata={"tenant": 1}):  # E: dict-item
        print(text)


def wrong_blocking(mesh: SyncMesh) -> str:
    mesh.call(Orders.get, 1)  # E: call-overload
    return mesh.call(Orders.get, "1")  # E: return-value
