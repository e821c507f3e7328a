"""What a client signs to prove a key, and whether the signature holds.

The rules:

1. The client signs the bytes of the challenge as it got it, in UTF-8: nothing before, nothing after, no hash of its
   own. That is all that a client in any language has to know.
2. It is safe because of what the challenge begins with: `doorward-login-v1.` and `doorward-register-v1.` begin nothing
   else that anybody signs (no JWT, certificate, SSH or TLS transcript), so a signature made here is of no use anywhere
   else, and a login is no registration. So nothing is signed or accepted that does not begin so.
3. Whether the challenge is ours, is for this key and is fresh is decided before, by `challenge.nonce`; a signature on a
   challenge that we did not make proves nothing.
"""

from challenge.nonce import read_challenge
from iam.errors import Refused
from iam.public_keys import Invalid, PublicKey, Valid, decode_base64, verify


def signed_message(challenge: str) -> bytes:
    """Return the bytes to sign for a challenge (rules 1 and 2).

    Raises:
        Refused: (malformed) It is no challenge of a Doorward server.
    """
    read_challenge(challenge)
    return challenge.encode()


def check_proof(public_key: PublicKey, signature: str, challenge: str) -> Valid | Invalid:
    """Say whether `signature`, in base64, is this key's on the challenge.

    Raises:
        Refused: (malformed) The signature is not base64.
    """
    try:
        message = signed_message(challenge)
    except Refused as refusal:
        return Invalid(refusal.reason)
    return verify(public_key, decode_base64(signature, "signature"), message)
