"""A service mesh whose wire is a message bus.

`protocol` what is said · `identity` who said it · `policy` who may · `balance` and `resilience` where to and how
often · `gates` one concern of a call each · `agent` the data plane · `bus` NATS · `process` children that never outlive
us · `telemetry` what is seen · `cli` the command line.

Apps import `bus_mesh_sdk`, which passes through here: no imports.
"""

__version__ = "0.1.0"
