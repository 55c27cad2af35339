"""One concern of a call's way, one file each: pure, synchronous, given the time. `gate` holds their contract."""
