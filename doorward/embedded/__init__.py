"""The servers that a node without its own runs under its data folder: PostgreSQL and nats-server."""
