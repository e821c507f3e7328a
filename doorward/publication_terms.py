"""What the configuration says of lists and of OCSP responders, for whoever makes them: the preparation and the jobs."""

from ca.authorities import Authorities
from ca.keystore import Keystore
from ca.list_publishing import ListPublisher, ListTerms
from ca.responders import Responders, ResponderTerms
from doorward.config import Configuration
from doorward.database import Pool
from iam.identifiers import Clock, Random


def list_publisher(configuration: Configuration, pool: Pool, authorities: Authorities, clock: Clock) -> ListPublisher:
    """Return what makes revocation lists when they are due."""
    published = configuration.publication
    terms = ListTerms(published.list_life, published.offline_list_life, published.delta_life)
    return ListPublisher(pool, authorities, clock, terms)


def ocsp_responders(
    configuration: Configuration, pool: Pool, authorities: Authorities, keys: Keystore, clock: Clock, random: Random
) -> Responders:
    """Return what makes the authorities' OCSP responders, and gives them out."""
    published = configuration.publication
    terms = ResponderTerms(published.responder_life, published.offline_list_life)
    return Responders(pool, authorities, keys, clock, random, terms)
