"""`python -m bus_mesh.cli` is `busmesh`."""

from bus_mesh.cli.main import run

if __name__ == "__main__":
    run()
