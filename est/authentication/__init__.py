"""How who enrols proves himself: one file for each way, and `table.py`, which asks those that a label names.

Every way answers with a value: an `Entitlement` (which devices the credential speaks for), a `Refuse` with its reason,
or `Wait`. What these together allow is decided in `est.rules`. Re-enrolment has one way only, the device's certificate.
"""
