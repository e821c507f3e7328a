"""Enrolment over Secure Transport, RFC 7030: how a device gets and renews its certificate.

Start with `rules.py` (every decision, with its clause), then `service.py` (the order in which they are made).
"""
