"""What is seen of a running node: log lines, metrics, and the page that shows them. Never a payload, key or token."""
