"""The brokers, over NATS: the only place of the callout that speaks it."""
