"""A client of EST (RFC 7030), for devices, for the command line, and for demonstrations.

It blocks, knows nothing of asyncio, and stands on `certs`, `cryptography` and pyOpenSSL alone; with a key in a token
on python-pkcs11 and tlslite-ng, too. Begin with `client.py` (the operations) and `folder.py` (a device's keys on disk,
through every crash); `own.py` says where a device's key is, `trust.py` and `connection.py` whom it believes,
`request.py` what it asks for, `renewal.py` and `watch.py` when it renews by itself.
"""

from est.client.authorization import Authorization, BasicSecret, BearerToken
from est.client.client import EstClient
from est.client.device import Server, Wish, enrol, renew, until_approved
from est.client.failure import EstFailure, Failure
from est.client.files import FolderBusy
from est.client.folder import DeviceFolder, FolderUnusable
from est.client.keys import KeyKind, KeyUnusable, PrivateKey, Signer, make_key, read_key, write_key
from est.client.renewal import Life, Moment, Window, life
from est.client.request import RequestTemplate, enrolment_request, make_request, renewal_request
from est.client.tls import Identification
from est.client.token_uri import Token, TokenKey
from est.client.watch import Command, Watch

__all__ = [
    "Authorization",
    "BasicSecret",
    "BearerToken",
    "Command",
    "DeviceFolder",
    "EstClient",
    "EstFailure",
    "Failure",
    "FolderBusy",
    "FolderUnusable",
    "Identification",
    "KeyKind",
    "KeyUnusable",
    "Life",
    "Moment",
    "PrivateKey",
    "RequestTemplate",
    "Server",
    "Signer",
    "Token",
    "TokenKey",
    "Watch",
    "Window",
    "Wish",
    "enrol",
    "enrolment_request",
    "life",
    "make_key",
    "make_request",
    "read_key",
    "renew",
    "renewal_request",
    "until_approved",
    "write_key",
]
