"""A whole device in Python: it enrols, connects to MQTT with its certificate, and renews for as long as it runs.

doorward device bootstrap --id pump-9 --out pump9
python examples/device.py pump9
"""

import argparse
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from est.client import DeviceFolder, EstFailure, Server, Window, Wish, enrol, life, renew


def connect(folder: DeviceFolder, broker: str) -> mqtt.Client:
    """Connect to the broker with the certificate that there is now."""
    trust = ssl.create_default_context(cafile=str(folder.root))
    trust.load_cert_chain(folder.own.certificate, folder.own.key)
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=folder.identifier())
    client.tls_set_context(trust)
    host, _, port = broker.partition(":")
    client.connect(host, int(port))
    client.loop_start()
    while not client.is_connected():
        time.sleep(0.01)
    print("connected", broker)
    return client


def main() -> None:
    """Run the device."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--url", default="https://127.0.0.1:9443")
    parser.add_argument("--mqtt", default="127.0.0.1:8883")
    parser.add_argument("--once", action="store_true", help="renew at once, and end")
    given = parser.parse_args()
    folder, server = DeviceFolder(given.folder), Server(given.url)
    if folder.certificate() is None:
        with folder.lock():
            print("enrolled", enrol(folder, server, Wish()).subject.rfc4514_string())
    client = connect(folder, given.mqtt)
    while certificate := folder.certificate():
        if given.once or datetime.now(UTC) >= life(certificate, Window()).due:
            try:
                with folder.lock():
                    renewed = renew(folder, server, Wish(), rekey=True)
            except EstFailure as failure:
                print("not renewed:", failure.failure, failure)
            else:
                print("renewed until", renewed.not_valid_after_utc)
                client.disconnect()
                client = connect(folder, given.mqtt)
        if given.once:
            break
        time.sleep(60)


if __name__ == "__main__":
    main()
