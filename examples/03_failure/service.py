"""Serves `weather` until Ctrl-C or SIGTERM, as badly as its environment asks for; SIGHUP makes it well.

FAILS=0.5        this share of calls fails
SLOW=0.2         each call takes so many seconds
VERSION=2.0.0    the version that it says it has
"""

import asyncio
import os
import random
import signal

from bus_mesh_sdk import Mesh
from contract import Forecast, NoView, Weather


class WeatherImpl(Weather):
    def __init__(self) -> None:
        self._fails = float(os.environ.get("FAILS", "0"))
        self._slow = float(os.environ.get("SLOW", "0"))
        self.version = os.environ.get("VERSION", "1.0.0")

    async def today(self, city: str) -> Forecast:
        await asyncio.sleep(self._slow)
        if random.random() < self._fails:
            raise NoView("fog on the lens")
        return Forecast(city=city, sky="rain", version=self.version)

    def recover(self) -> None:
        self._fails = self._slow = 0.0


async def main() -> None:
    async with Mesh.connect(app="weather") as mesh:
        weather = WeatherImpl()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, weather.recover)
        serving = await mesh.serve(weather, version=weather.version)
        print(f"serving weather {weather.version} as {serving.instance}", flush=True)
        await mesh.wait_closed()


if __name__ == "__main__":
    asyncio.run(main())
