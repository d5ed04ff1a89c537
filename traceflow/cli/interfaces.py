"""`traceflow interfaces`: the network interfaces of this system, one row each."""

from __future__ import annotations

import sys
from typing import Any

from traceflow.cli.commands import View
from traceflow.cli.exits import Exit
from traceflow.cli.output import row_writer
from traceflow.decode import LINKS
from traceflow.sources.interfaces import Device, devices, may_capture
from traceflow.sources.live_libpcap import libpcap_devices

__all__ = ["run"]


def _cells(device: Device, allowed: bool) -> dict[str, Any]:
    """The cells of an interface, by the names of INTERFACE_FIELDS."""
    capture = "no permission" if not allowed else "down" if device.state == "down" else "yes"
    return {
        "interface": device.name,
        "index": device.index or None,
        "state": device.state,
        "capture": capture,
        "link": device.link or None,
        "link_name": LINKS.get(device.link),
        "mtu": device.mtu or None,
        "addresses": " ".join(device.addresses) or None,
    }


def run(view: View) -> int:
    """List the interfaces.

    Args:
        view: Format and fields.

    Returns:
        The exit code.

    Raises:
        CannotReadError: They cannot be listed.
        LibraryMissingError: Another system than Linux, and no libpcap.
    """
    linux = sys.platform == "linux"
    rows = [_cells(device, not linux or may_capture()) for device in (devices() if linux else libpcap_devices())]
    writer = row_writer(view)
    if rows:
        writer.write([[row[field.name] for row in rows] for field in view.fields])
    writer.close()
    return Exit.OK
