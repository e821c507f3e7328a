"""The one clock outside tests."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the time now, aware and in UTC."""
    return datetime.now(UTC)
