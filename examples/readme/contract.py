from bus_mesh_sdk import Code, MeshError, Service, rpc
from pydantic import BaseModel


class Quote(BaseModel):
    sku: str
    cents: int


class UnknownSku(MeshError, code=Code.NOT_FOUND, reason="UNKNOWN_SKU"):
    """There is no such article; arrives at the caller as itself."""


class Prices(Service, name="prices", version="1.0.0"):
    @rpc(idempotent=True, timeout=0.5)
    async def quote(self, sku: str, qty: int = 1) -> Quote:
        """Return what `qty` of `sku` cost."""
        raise NotImplementedError
