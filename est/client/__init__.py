"""A client of EST (RFC 7030), for devices, for the command line, and for demonstrations.

It blocks, knows nothing of asyncio, and stands on `certs`, `cryptography` and pyOpenSSL alone. Begin with `client.py`
(the operations) and `folder.py` (a device's keys on disk, through every crash); `trust.py` and `tls.py` say whom it
believes, `request.py` what it asks for, `renewal.py` and `watch.py` when it renews by itself.
"""

from est.client.client import Authorization, BasicSecret, BearerToken, EstClient
from est.client.failure import EstFailure, Failure
from est.client.keys import KeyKind, KeyUnusable, PrivateKey, Signer, make_key, read_key, write_key
from est.client.request import RequestTemplate, enrolment_request, make_request, renewal_request
from est.client.tls import Identification

__all__ = [
    "Authorization",
    "BasicSecret",
    "BearerToken",
    "EstClient",
    "EstFailure",
    "Failure",
    "Identification",
    "KeyKind",
    "KeyUnusable",
    "PrivateKey",
    "RequestTemplate",
    "Signer",
    "enrolment_request",
    "make_key",
    "make_request",
    "read_key",
    "renewal_request",
    "write_key",
]
