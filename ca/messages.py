"""Signing messages with an authority's key: only what can never be taken for something that an authority says.

The rules:

1. A signature by an authority's key vouches. Certificates, revocation lists, OCSP responses, requests and CMS are all
   verified over the exact bytes of a structure in DER that begins with a SEQUENCE or a SET: with the byte 0x30 or 0x31.
   A message that begins with one of these is refused, whatever comes after. No other message can be such a structure.
2. A digest is refused: it may be that of any structure.
3. Verifying is open to any message: it tells and gives nothing.
"""

from ca.signers import MessageSigner
from ca.signing import Message, SigningAlgorithm
from iam.errors import Kind, Refused

_BEGIN_OF_STRUCTURES = (0x30, 0x31)


def check_message(message: Message) -> None:
    """Check that a message may be signed by an authority (rules 1 and 2); raise `Refused` (invalid) with why not."""
    if message.is_digest:
        raise Refused(
            Kind.INVALID,
            "An authority signs no digests: a digest may be that of a certificate. Send the whole message.",
        )
    if not message.content:
        raise Refused(Kind.INVALID, "There is no message.")
    if message.content[0] in _BEGIN_OF_STRUCTURES:
        raise Refused(
            Kind.INVALID,
            "An authority signs no message that begins with the byte 0x30 or 0x31, as certificates, revocation lists"
            " and OCSP responses do. Put something before it.",
        )


def sign(signer: MessageSigner, algorithm: SigningAlgorithm, message: Message) -> bytes:
    """Sign a message; raise `Refused` (invalid) if it may not be signed, or does not fit the key."""
    check_message(message)
    return signer.sign_message(algorithm, message)
