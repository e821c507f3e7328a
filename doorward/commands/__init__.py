"""What each command of `doorward` does; the command line itself is `doorward/cli.py`."""
