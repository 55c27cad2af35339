"""The arithmetic behind gates, one decision per file. Pure."""
