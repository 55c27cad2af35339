"""Writes so many MB in lines of 100 bytes, says that it did, and stays."""

import sys
import time

for number in range(int(sys.argv[1]) * 10_000):
    sys.stdout.write(f"{number:08d} {'x' * 90}\n")
print("done", flush=True)
time.sleep(300)
