"""`busmesh policy-agent` runs the control plane: it numbers policy, signs it, and says who applied it."""

from pathlib import Path
from typing import Annotated

import typer


def policy_agent(
    config: Annotated[Path, typer.Option("-c", "--config", metavar="POLICY.YAML", help="Its settings.")],
) -> None:
    """Run the policy agent.

    A second one on the same state waits, and takes over when the first is gone.
    """
    from bus_mesh.control.run import run_policy_agent
    from bus_mesh.control.settings import load_policy_agent

    raise typer.Exit(run_policy_agent(load_policy_agent(config)))
