"""What a call through two agents costs, beside plain nats-py on the same machine in the same minute."""
