"""Services that a rogue node offers and may not."""

from bus_mesh_sdk import Service, rpc


class Ledger(Service, name="ledger"):
    @rpc(idempotent=True)
    async def who(self) -> str:
        raise NotImplementedError


class Stolen(Ledger):
    async def who(self) -> str:
        return "stolen"


class PlacedContract(Service, name="placed"):
    @rpc(idempotent=True)
    async def who(self) -> str:
        raise NotImplementedError


class Placed(PlacedContract):
    async def who(self) -> str:
        return "stolen"
