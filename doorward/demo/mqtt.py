"""An MQTT client for the demo: paho, with the few questions that the journey asks."""

import queue
import ssl
import threading
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

SECONDS = 5.0
_REFUSED_SUBSCRIPTION = 0x80


class NotConnected(Exception):
    """The broker did not let the client in, or there is none."""


@dataclass(frozen=True)
class Place:
    """Where and how to connect: a listener, whom to trust, and what to show."""

    host: str
    port: int
    trust: ssl.SSLContext


class MqttClient:
    """One connection; it does not reconnect by itself, so that being cut is seen."""

    def __init__(self, place: Place, client_id: str, *, user: str | None = None, password: str | None = None) -> None:
        self._place = place
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id, reconnect_on_failure=False)
        self._client.tls_set_context(place.trust)
        if password is not None:
            self._client.username_pw_set(user or client_id, password)
        self._connected: queue.Queue[bool] = queue.Queue()
        self._granted: queue.Queue[int] = queue.Queue()
        self._messages: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._cut = threading.Event()
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message

    def connect(self) -> "MqttClient":
        """Connect; raise `NotConnected` if the broker refuses."""
        self._cut.clear()
        try:
            self._client.connect(self._place.host, self._place.port, keepalive=30)
        except OSError as error:
            raise NotConnected(str(error)) from error
        self._client.loop_start()
        try:
            if self._connected.get(timeout=SECONDS):
                return self
        except queue.Empty:
            pass
        self.close()
        raise NotConnected("the broker refused")

    def subscribe(self, topic: str) -> bool:
        """Subscribe with QoS 1; tell whether the broker granted it."""
        self._client.subscribe(topic, qos=1)
        return self._granted.get(timeout=SECONDS) < _REFUSED_SUBSCRIPTION

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish with QoS 1 and wait for the broker's acknowledgement."""
        self._client.publish(topic, payload, qos=1).wait_for_publish(SECONDS)

    def message(self, seconds: float = SECONDS) -> tuple[str, bytes] | None:
        """Return the next message, or None if none comes."""
        try:
            return self._messages.get(timeout=seconds)
        except queue.Empty:
            return None

    def is_cut_within(self, seconds: float) -> bool:
        """Tell whether the broker ends the connection in this time."""
        return self._cut.wait(seconds)

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: ReasonCode, _more: Any) -> None:  # noqa: ANN401 - paho's signature
        self._connected.put(not reason.is_failure)

    def _on_disconnect(self, *_: Any) -> None:  # noqa: ANN401 - paho's signature
        self._cut.set()
        self._connected.put(False)

    def _on_subscribe(self, _client: Any, _data: Any, _id: int, reasons: list[ReasonCode], _more: Any) -> None:  # noqa: ANN401 - paho's signature
        self._granted.put(reasons[0].value)

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:  # noqa: ANN401 - paho's signature
        self._messages.put((message.topic, bytes(message.payload)))
