"""`doorward.ports`: a port that is taken is named before anything starts."""

import socket

import pytest

from doorward.config import ApiSection, Configuration
from doorward.ports import check_ports
from iam.errors import Refused


def test_a_port_in_use_is_named_with_its_key() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Refused, match=rf"127\.0\.0\.1:{port} \(api\.port\) is in use"):
            check_ports(Configuration(api=ApiSection(port=port)))
