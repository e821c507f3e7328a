"""`device`: what a device does with its folder of keys and certificates, on the command line.

`options.py` says what may be asked, `run.py` does it with `est.client`, `outcome.py` says how it went.
"""
