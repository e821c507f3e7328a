from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.duration import LONGEST, read_duration, write_duration
from certs.errors import ProfileRefused


@pytest.mark.parametrize(
    ("text", "days", "seconds"),
    [("90d", 90, 0), ("1y", 365, 0), ("2w1d", 15, 0), ("36h", 1, 43200), ("1h30m5s", 0, 5405), ("36600d", 36600, 0)],
)
def test_periods(text: str, days: int, seconds: int) -> None:
    assert read_duration(text) == timedelta(days, seconds)


@pytest.mark.parametrize(
    "text", ["", "0s", "90", "d", "-1d", "1.5h", "1d1w", "1d2d", "90 d", "90D", "36601d", "\u0661d", "1d\n", "9" * 40]
)
def test_what_is_no_period(text: str) -> None:
    with pytest.raises(ProfileRefused):
        read_duration(text)


@given(st.integers(1, int(LONGEST.total_seconds())))
def test_what_is_written_reads_back(seconds: int) -> None:
    assert read_duration(write_duration(timedelta(seconds=seconds))) == timedelta(seconds=seconds)
