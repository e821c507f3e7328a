"""Devices as a list in Lamassu's form."""

from iam.listing import FieldKind
from iam.model import DeviceStatus
from iam.store.listing import Column, Listing

DEVICES = Listing(
    select="device_identifier",
    source="FROM device",
    columns={
        "id": Column(FieldKind.TEXT, "device_identifier"),
        "status": Column(FieldKind.ENUM, "status", values=tuple(DeviceStatus)),
        "dms_owner": Column(FieldKind.TEXT, "enrolment_profile", is_nullable=True),
        "creation_timestamp": Column(FieldKind.DATE, "created_at"),
        "labels": Column(FieldKind.JSON, "labels"),
        "metadata": Column(FieldKind.JSON, "metadata"),
    },
    key="id",
)
