"""Broker authorization: who is connecting, and which topics that identity may use."""
