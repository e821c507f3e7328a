"""Configuration: read once, strictly, into one frozen value.

The rules:

1. `doorward.toml` first, then `DOORWARD_<SECTION>_<KEY>` from the environment; nothing else.
2. An unknown section or key stops the start-up and names the nearest known one.
3. A secret is given by the path of its file (in a database URL as `?passfile=`); a password that stands in a URL all
   the same is never shown.
4. Without `database.url` and `nats.servers` the node brings its own PostgreSQL and nats-server under the data folder.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from est.authentication.asking import PROXY_PIN
from iam.errors import Kind, Refused

ENVIRONMENT_PREFIX = "DOORWARD_"
DEFAULT_FILE = "doorward.toml"
EMBEDDED_ACCOUNT = "APP"
_ALL_ADDRESSES = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - what is listened on, not what others connect to


def _list_from_text(value: object) -> object:
    """Let a list come from the environment as words separated by commas."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


_TOKEN_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_OTHER_ENGINES = ("sealed", "file", "pkcs11")


def _seconds(value: object) -> object:
    """Let a duration be a number of seconds."""
    if not isinstance(value, (int, float, str)):
        return value
    try:
        return timedelta(seconds=float(value))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"not a number of seconds: {value}") from error


def _table(value: object) -> object:
    """Let a table be written as JSON, as an environment variable has to."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError("not a table in JSON") from error


def _token_name(text: str) -> str:
    """Let a text be the name of a further token's engine."""
    if not _TOKEN_NAME.fullmatch(text) or text in _OTHER_ENGINES:
        raise ValueError(f"a token is named by 1 to 32 of a-z, 0-9 and -, and not {', '.join(_OTHER_ENGINES)}")
    return text


def _between(shortest: timedelta, longest: timedelta) -> Callable[[timedelta], timedelta]:
    """Let a duration be of this length at least and at most."""

    def check(value: timedelta) -> timedelta:
        if not shortest <= value <= longest:
            least, most = shortest.total_seconds(), longest.total_seconds()
            raise ValueError(f"{value.total_seconds():g} is not between {least:.0f} and {most:.0f} seconds")
        return value

    return check


Words = Annotated[tuple[str, ...], BeforeValidator(_list_from_text)]
Seconds = Annotated[timedelta, BeforeValidator(_seconds)]
Lifetime = Annotated[Seconds, AfterValidator(_between(timedelta(seconds=1), timedelta(days=7)))]
Window = Annotated[Seconds, AfterValidator(_between(timedelta(0), timedelta(days=50 * 365)))]
ListLife = Annotated[Seconds, AfterValidator(_between(timedelta(minutes=10), timedelta(days=365)))]
AnswerLife = Annotated[Seconds, AfterValidator(_between(timedelta(minutes=1), timedelta(days=7)))]
ResponderLife = Annotated[Seconds, AfterValidator(_between(timedelta(hours=1), timedelta(days=90)))]
TokenName = Annotated[str, AfterValidator(_token_name)]
TokenWait = Annotated[Seconds, AfterValidator(_between(timedelta(seconds=1), timedelta(minutes=10)))]
Rotation = Annotated[Seconds, AfterValidator(_between(timedelta(hours=1), timedelta(days=365)))]


class Section(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeSection(Section):
    """This node."""

    data: Path = Field(Path("var"), description="Where this node keeps its keys and, if embedded, its data.")
    workers: int = Field(2, ge=1, le=256, description="How many worker processes share the listeners.")
    public_url: str | None = Field(
        None,
        description="How clients reach the API: the issuer of tokens and the audience of challenges;"
        " `https://<api.host>:<api.port>` if not said.",
        pattern=r"^https://[^\s/?#]+$",
    )
    server_names: Words = Field(
        ("localhost", "127.0.0.1"),
        min_length=1,
        description="Names and addresses in the certificates of our listeners.",
    )
    master_key_from: Literal["file", "environment", "credential"] = Field(
        "file",
        description="Where the master key comes from: a file, the variable `DOORWARD_MASTER_KEY`, or a credential of"
        " systemd.",
    )
    master_key_credential: str = Field(
        "doorward-master-key",
        description="Its name in `$CREDENTIALS_DIRECTORY`, where it is a credential.",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$",
    )
    master_key_file: Path | None = Field(
        None, description="32 bytes that seal every stored key; `<data>/master.key`, made at first start, if not said."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What the log holds.")


class ApiSection(Section):
    """The REST listener: HTTPS, never asks for a client certificate."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8443, ge=0, le=65535, description="Port to listen on.")


class EstSection(Section):
    """The EST listener: HTTPS, asks for a client certificate."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(9443, ge=0, le=65535, description="Port to listen on.")
    handshakes_per_address: int = Field(
        64, ge=1, description="How many TLS handshakes one address may have open at once, on both HTTPS listeners."
    )
    trusted_proxies: Words = Field(
        (),
        description="Proxies that may pass client certificates on, for every label: `client-cert:` or `xfcc:`, the"
        " header that the proxy owns, and the SHA-256 of its SubjectPublicKeyInfo in hexadecimal.",
    )
    outbound_networks: Words = Field(
        (),
        description="Networks such as `10.1.0.0/16` where webhooks and OpenID issuers of labels may be, though they"
        " are not everybody's.",
    )

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, pins: tuple[str, ...]) -> tuple[str, ...]:
        for pin in pins:
            if not re.fullmatch(PROXY_PIN, pin):
                raise ValueError(f"{pin} is not client-cert: or xfcc: and a SHA-256 in lower-case hexadecimal")
        return pins

    @field_validator("outbound_networks")
    @classmethod
    def _check_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ip_network(network)
        return networks


class DatabaseSection(Section):
    """PostgreSQL; embedded if no URL is given."""

    url: str | None = Field(None, description="As the role of the nodes: owns nothing, cannot bypass row security.")
    owner_url: str | None = Field(None, description="As the role that owns the tables: for migrations.")
    pool_size: int = Field(10, ge=2, le=200, description="Connections for each worker.")


class NatsSection(Section):
    """NATS; embedded if no servers are given."""

    servers: Words = Field((), description="URLs of the nats-servers, each asked for its own callouts.")
    account: str = Field(EMBEDDED_ACCOUNT, description="The account that clients land in.")
    callout_user: str = Field("callout", description="User of the account AUTH that answers callouts.")
    callout_password_file: Path | None = Field(None, description="Its password.")
    system_user: str = Field("system", description="User of the system account, to find and end connections.")
    system_password_file: Path | None = Field(None, description="Its password.")
    bus_user: str = Field("bus", description="User of the account that carries Doorward's own events.")
    bus_password_file: Path | None = Field(None, description="Its password.")
    issuer_seed_file: Path | None = Field(None, description="Seed of the account key that signs callout answers.")
    xkey_seed_file: Path | None = Field(None, description="Seed of the curve key that encrypts callouts.")
    ca_file: Path | None = Field(None, description="CA certificates that the servers' certificates chain to.")
    host: str = Field("127.0.0.1", description="Embedded: address to listen on.")
    port: int = Field(4222, ge=1, le=65535, description="Embedded: NATS over TLS.")
    mqtt_certificate_port: int = Field(8883, ge=1, le=65535, description="Embedded: MQTT, client certificate required.")
    mqtt_password_port: int = Field(8884, ge=1, le=65535, description="Embedded: MQTT, token as password.")
    websocket_port: int = Field(9222, ge=1, le=65535, description="Embedded: NATS and MQTT (`/mqtt`) over WebSocket.")
    edge_port: int = Field(4223, ge=1, le=65535, description="Embedded: loopback port of the second server.")
    leafnode_port: int = Field(7422, ge=1, le=65535, description="Embedded: loopback port that joins the two servers.")


class TokensSection(Section):
    """Access tokens."""

    audience: str = Field("doorward", min_length=1, description="The `aud` of tokens.")
    person_lifetime: Lifetime = Field(
        timedelta(minutes=15), description="Seconds, for people and programs; at most 7 days."
    )
    machine_lifetime: Lifetime = Field(
        timedelta(hours=24), description="Seconds, for gateways and devices; at most 7 days."
    )
    rotate_every: Rotation = Field(
        timedelta(days=30), description="Seconds for which one key signs; from an hour to a year."
    )


class CaSection(Section):
    """The certification authorities."""

    publication_url: str | None = Field(
        None,
        description="Where relying parties find `/crl/<authority>.crl`, `/ca/<authority>.crt` and `/ocsp`, for the URLs"
        " in certificates; `http://<publication.host>:<publication.port>` if not said.",
        pattern=r"^https?://[^\s?#]*[^\s?#/]$",
    )


class DevicesSection(Section):
    """The life cycle of devices whose enrolment profile is gone; a profile says it for its own."""

    renewal_window: Window = Field(
        timedelta(days=30), description="Seconds before the end of its certificate that a device is RENEWAL_PENDING."
    )
    critical_window: Window = Field(
        timedelta(days=7), description="Seconds before it that the device is EXPIRING_SOON; no more than those above."
    )


class TokenPlace(Section):
    """A further hardware token."""

    module: Path = Field(description="The maker's PKCS#11 module, a shared library.")
    token: str = Field(min_length=1, max_length=32, description="The token's label.")
    pin_file: Path = Field(description="The PIN of the token's user.")


class Pkcs11Section(Section):
    """A hardware token that makes and keeps keys, and further ones; needs `doorward[pkcs11]`."""

    module: Path | None = Field(None, description="The maker's PKCS#11 module, a shared library.")
    token: str | None = Field(None, min_length=1, max_length=32, description="The token's label.")
    pin_file: Path | None = Field(
        None, description="The PIN of the token's user; the variable `DOORWARD_PKCS11_PIN` if not said."
    )
    tokens: Annotated[Mapping[TokenName, TokenPlace], BeforeValidator(_table)] = Field(
        default_factory=dict, description="Further tokens, by the names of their engines; the variable is JSON."
    )
    deadline: TokenWait = Field(
        timedelta(seconds=10), description="Seconds that anybody waits for the token, then 503."
    )
    making_deadline: TokenWait = Field(timedelta(minutes=2), description="The same for a key that is made there.")


class PublicationSection(Section):
    """What relying parties ask for: revocation lists, authorities' certificates and OCSP, over plain HTTP."""

    enabled: bool = Field(True, description="Whether there is a listener for them.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on.")
    list_life: ListLife = Field(
        timedelta(days=1), description="Seconds for which a revocation list counts; a new one is made at half of them."
    )
    offline_list_life: ListLife = Field(
        timedelta(days=90), description="The same for the root, whose key may be away; also for its OCSP responder."
    )
    delta_life: ListLife = Field(timedelta(hours=1), description="The same for what changed since a list.")
    answer_life: AnswerLife = Field(
        timedelta(hours=1), description="Seconds for which an OCSP answer counts; it is prepared anew at half of them."
    )
    responder_life: ResponderLife = Field(
        timedelta(days=7), description="Seconds for which the certificate of an OCSP responder counts; renewed at half."
    )


class Configuration(Section):
    """All of it."""

    node: NodeSection = NodeSection()
    api: ApiSection = ApiSection()
    est: EstSection = EstSection()
    database: DatabaseSection = DatabaseSection()
    nats: NatsSection = NatsSection()
    tokens: TokensSection = TokensSection()
    ca: CaSection = CaSection()
    devices: DevicesSection = DevicesSection()
    pkcs11: Pkcs11Section = Pkcs11Section()
    publication: PublicationSection = PublicationSection()

    @property
    def public_url(self) -> str:
        """How clients reach the API."""
        return self.node.public_url or f"https://{self.api.host}:{self.api.port}"

    @property
    def est_url(self) -> str:
        """How devices reach EST: under the API's name, at its own port."""
        host = urlsplit(self.public_url).hostname or self.est.host
        return f"https://{host}:{self.est.port}"

    @property
    def publication_url(self) -> str | None:
        """Where relying parties find what is published; None if nobody publishes it."""
        listen = self.publication
        if self.ca.publication_url is not None or not listen.enabled:
            return self.ca.publication_url
        host = urlsplit(self.public_url).hostname if listen.host in _ALL_ADDRESSES else listen.host
        return f"http://[{host}]:{listen.port}" if host and ":" in host else f"http://{host}:{listen.port}"

    @property
    def embeds_database(self) -> bool:
        """Whether this node runs its own PostgreSQL."""
        return self.database.url is None

    @property
    def embeds_nats(self) -> bool:
        """Whether this node runs its own nats-server."""
        return not self.nats.servers


def load_configuration(
    file: Path | None, environment: Mapping[str, str], overrides: Mapping[str, Mapping[str, Any]] | None = None
) -> Configuration:
    """Read the configuration.

    Args:
        file: Must exist if given; otherwise `doorward.toml` is read if it is there.
        environment: `DOORWARD_NODE_DATA` and the like.
        overrides: What the command line says, by section and key; it wins.

    Raises:
        Refused: (invalid) With a sentence for every key that is wrong.
    """
    raw = _read_file(file)
    for name, value in sorted(environment.items()):
        if name.startswith(ENVIRONMENT_PREFIX) and name not in _NOT_CONFIGURATION:
            section, key = _place_of(name)
            raw.setdefault(section, {})[key] = value
    for section, values in (overrides or {}).items():
        raw.setdefault(section, {}).update({key: value for key, value in values.items() if value is not None})
    _check_known(raw)
    try:
        configuration = Configuration.model_validate(raw)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors())
        raise Refused(Kind.INVALID, f"The configuration is wrong: {wrong}.") from error
    _check_whole(configuration)
    return configuration


ENVIRONMENT_MASTER_KEY = "DOORWARD_MASTER_KEY"
ENVIRONMENT_PIN = "DOORWARD_PKCS11_PIN"
_NOT_CONFIGURATION = frozenset({"DOORWARD_READY_FD", ENVIRONMENT_MASTER_KEY, ENVIRONMENT_PIN})


def known_keys() -> dict[str, list[str]]:
    """Return every section and its keys."""
    return {
        section: list(field.annotation.model_fields)  # type: ignore[union-attr]
        for section, field in Configuration.model_fields.items()
    }


def _read_file(file: Path | None) -> dict[str, dict[str, Any]]:
    path = file or Path(DEFAULT_FILE)
    if file is None and not path.exists():
        return {}
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused(Kind.INVALID, f"The configuration {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Refused(Kind.INVALID, f"The configuration {path} is not TOML: {error}.") from error
    for section, values in raw.items():
        if not isinstance(values, dict):
            raise Refused(Kind.INVALID, f"'{section}' stands outside a section: {_nearest(section)}.")
    return raw


def _place_of(variable: str) -> tuple[str, str]:
    section, _, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("_")
    if section not in known_keys() or key not in known_keys()[section]:
        known = [f"{ENVIRONMENT_PREFIX}{one}_{name}".upper() for one, names in known_keys().items() for name in names]
        near = difflib.get_close_matches(variable, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise Refused(Kind.INVALID, f"The environment variable {variable} is not known{hint}")
    return section, key


def _check_known(raw: Mapping[str, Mapping[str, Any]]) -> None:
    known = known_keys()
    for section, values in raw.items():
        if section not in known:
            raise Refused(Kind.INVALID, f"The section [{section}] is not known: {_nearest(section)}.")
        for key in values:
            if key not in known[section]:
                near = difflib.get_close_matches(key, known[section], n=1)
                hint = f"did you mean {section}.{near[0]}?" if near else f"known are {', '.join(known[section])}."
                raise Refused(Kind.INVALID, f"The key {section}.{key} is not known: {hint}")


def _nearest(section: str) -> str:
    near = difflib.get_close_matches(section, known_keys(), n=1)
    return f"did you mean [{near[0]}]?" if near else f"known are {', '.join(known_keys())}"


def _check_whole(configuration: Configuration) -> None:
    """Refuse what no single key shows: halves of things that belong together."""
    if configuration.node.master_key_from != "file" and configuration.node.master_key_file is not None:
        raise Refused(Kind.INVALID, "node.master_key_file is of use only where node.master_key_from is 'file'.")
    if (configuration.pkcs11.module is None) != (configuration.pkcs11.token is None):
        raise Refused(Kind.INVALID, "pkcs11.module and pkcs11.token belong together: give both or neither.")
    database, nats = configuration.database, configuration.nats
    if (database.url is None) != (database.owner_url is None):
        raise Refused(Kind.INVALID, "database.url and database.owner_url belong together: give both or neither.")
    if configuration.devices.critical_window > configuration.devices.renewal_window:
        raise Refused(Kind.INVALID, "devices.critical_window is at most devices.renewal_window.")
    if not nats.servers and nats.account != EMBEDDED_ACCOUNT:
        raise Refused(Kind.INVALID, f"nats.account is {EMBEDDED_ACCOUNT} where the node brings its own nats-server.")
    if nats.servers:
        for key in (
            "callout_password_file", "system_password_file", "bus_password_file", "issuer_seed_file", "xkey_seed_file",
        ):  # fmt: skip
            if getattr(nats, key) is None:
                raise Refused(Kind.INVALID, f"With nats.servers, nats.{key} is needed too.")


def process_environment() -> Mapping[str, str]:
    """Return the environment of this process; the only place that reads it."""
    return os.environ
