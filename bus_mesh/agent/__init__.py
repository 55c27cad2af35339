"""The data plane: one agent a node, between its local apps and the bus. `path` is the way of a call, top to bottom."""
