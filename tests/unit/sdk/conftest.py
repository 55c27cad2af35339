from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from bus_mesh_sdk import Mesh
from peer import PeerAgent, listening


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "agent.sock"


@pytest.fixture
async def agent(socket: Path) -> AsyncIterator[PeerAgent]:
    async with listening(socket) as agent:
        yield agent


@pytest.fixture
async def mesh(agent: PeerAgent, socket: Path) -> AsyncIterator[Mesh]:
    async with Mesh.connect(app="web", socket=socket) as mesh:
        yield mesh
