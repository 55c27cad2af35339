"""The control plane: what the policy agent keeps (`store.py`), and who may use the broker (`nats_authority.py`)."""
