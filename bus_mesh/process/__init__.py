"""Children that never outlive their owner: `keeper` holds them in a small process, `kept` is the way to talk to it."""
