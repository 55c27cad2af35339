"""What the two sides promise each other. Both import it; nothing is generated from it."""

from bus_mesh_sdk import Service, rpc


class Hello(Service, name="hello", version="1.0.0"):
    @rpc(idempotent=True, timeout=0.5)
    async def greet(self, name: str) -> str:
        """Greet somebody."""
        raise NotImplementedError
