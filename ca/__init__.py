"""The authority: its keys, issuing, revoking, and saying so.

Start with `inventory.py` (what becomes of a certificate), then `issue.py` and `crl.py` (how certificates and revocation
lists are made, pure), then `service.py` (what is done with them, each method one transaction).
"""
