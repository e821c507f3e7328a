"""`device`: what a device does with its folder of keys and certificates, on the command line.

`options.py` says what may be asked, `given.py` what was, `run.py` does it with `est.client`, `shown.py` shows what came
of it, and `outcome.py` says how it ended.
"""
