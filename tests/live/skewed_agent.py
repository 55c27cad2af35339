"""A node agent on a machine whose clock is wrong: by argv[1] seconds, ahead of the true time."""

import sys

from bus_mesh import clock
from bus_mesh.cli.main import run


def main() -> None:
    true_ns, by_ns = clock.wall_ns, int(float(sys.argv.pop(1)) * 1e9)
    # The one module that reads the time is told a wrong one; all else is the agent as people run it.
    vars(clock)["wall_ns"] = lambda: true_ns() + by_ns
    vars(clock)["wall"] = lambda: (true_ns() + by_ns) / 1e9
    run()


if __name__ == "__main__":
    main()
