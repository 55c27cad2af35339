from bus_mesh_sdk import Code, MeshError, Service, rpc
from pydantic import BaseModel


class Forecast(BaseModel):
    city: str
    sky: str
    version: str


class NoView(MeshError, code=Code.UNAVAILABLE, reason="NO_VIEW"):
    """This instance cannot tell just now; another one may."""


class Weather(Service, name="weather", version="1.0.0"):
    @rpc(idempotent=True)
    async def today(self, city: str) -> Forecast:
        """Return today's weather. Asking twice does no harm, so a call that fails may be tried elsewhere."""
        raise NotImplementedError
