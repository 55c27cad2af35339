"""The message bus: `contract` is what every bus keeps, `nats_bus` the real one, `memory` one within a process.

`embedded` starts a nats-server of our own, `backoff` says when to knock again, `pattern` which subject is for whom.
"""
