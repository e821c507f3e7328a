"""`doorward demo`: the whole of Doorward in one journey, with real clients against a running node."""

from doorward.demo.show import run_demo

__all__ = ["run_demo"]
