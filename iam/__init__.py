"""Who may do what: identities, what they hold, and the one answer to "may it?".

The ground that `ca`, `est`, `challenge` and `callout` stand on. Start with `model.py` (the words), then `access.py`
(the decision), then `guard.py` (how a request meets it).
"""
