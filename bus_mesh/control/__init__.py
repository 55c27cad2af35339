"""The control plane: what the policy agent keeps. `store.py` is its memory."""
