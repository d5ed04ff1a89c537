"""The filters `ip`, `protocol`, `flags`, `vlan` and `tunnel`: what stands in the headers of a packet.

All of them mean the innermost packet of a frame, and a frame without an IP packet matches none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from traceflow.errors import suggest
from traceflow.filters.contract import Kind, ParameterError
from traceflow.filters.graph import Call
from traceflow.filters.parameters import ranges_of, ranges_table, ranges_text, whole_number, words_of
from traceflow.filters.running import MaskRunner
from traceflow.packets import FLAGS_KNOWN, Tunnel, Verdict
from traceflow.protocols import protocol_name

__all__ = ["FLAGS", "IP", "PROTOCOL", "TUNNEL", "VLAN", "protocol_known"]

_Column = Callable[[Any], Any]


def protocol_known(column: _Column) -> Any:
    """bool[k], whether what stands behind the IP header is known."""
    verdict = column("verdict")
    return (column("ip_version") != 0) & (verdict != Verdict.MALFORMED_IP) & (verdict != Verdict.TRUNCATED_IP)


# --- ip --------------------------------------------------------------------------------------------------------


def _ip(parameter: str) -> str:
    version = parameter.strip().lower().removeprefix("v")
    if version not in ("4", "6"):
        raise ParameterError("the version of IP is 4 or 6")
    return version


def _make_ip(call: Call) -> MaskRunner:
    version = int(call.parameter)
    return MaskRunner(lambda column: column("ip_version") == version)


IP = Kind("ip", "packets of IPv4, or of IPv6", "4|6", _ip, _make_ip, predicate=True)

# --- protocol --------------------------------------------------------------------------------------------------

_NUMBERS = {protocol_name(number).lower(): number for number in range(256)}
_NUMBERS |= {"ospf": 89}


def _protocols(parameter: str) -> list[int]:
    found, at = set(), 0
    for part in parameter.split(","):
        name, place = part.strip(), at + len(part) - len(part.lstrip())
        if name.lower() in _NUMBERS:
            found.add(_NUMBERS[name.lower()])
        elif name.isdigit():
            found.add(whole_number(name, "the number of a protocol", 0, 255, place))
        elif not name:
            raise ParameterError("a protocol is missing; needed is a name such as tcp, or a number", place)
        else:
            usual = [known for known, number in _NUMBERS.items() if known != f"ip{number}"]
            raise ParameterError(f"{suggest('protocol', name[:40], usual)}, or a number from 0 to 255", place)
        at += len(part) + 1
    return sorted(found)


def _protocol(parameter: str) -> str:
    return ",".join(protocol_name(number) for number in _protocols(parameter))


def _make_protocol(call: Call) -> MaskRunner:
    table = np.zeros(256, np.bool_)
    table[_protocols(call.parameter)] = True
    return MaskRunner(lambda column: column(protocol_known) & table[column("protocol")])


PROTOCOL = Kind("protocol", "packets of IP protocols, by name or number", "NAME|NUMBER[,...]", _protocol,
                _make_protocol, predicate=True)  # fmt: skip

# --- flags -----------------------------------------------------------------------------------------------------

_FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")
_TCP = 6


def _flag_bits(parameter: str) -> tuple[int, int]:
    """Bits that must be set, and bits that must not."""
    bits, at = [0, 0], 0
    for part in parameter.split(","):
        place = at + len(part) - len(part.lstrip())
        name = part.strip().lower()
        unset = name.startswith("!")
        name = name.removeprefix("!").strip()
        if name not in _FLAGS:
            raise ParameterError(suggest("TCP flag", name[:40], _FLAGS), place)
        bits[unset] |= 1 << _FLAGS.index(name)
        if bits[0] & bits[1]:
            raise ParameterError(f"{name} cannot be both set and unset", place)
        at += len(part) + 1
    return bits[0], bits[1]


def _flags(parameter: str) -> str:
    wanted, unwanted = _flag_bits(parameter)
    signs = ((name, 1 << bit) for bit, name in enumerate(_FLAGS))
    return ",".join(name if wanted & bit else f"!{name}" for name, bit in signs if (wanted | unwanted) & bit)


def _make_flags(call: Call) -> MaskRunner:
    wanted, unwanted = _flag_bits(call.parameter)
    mask = np.uint8(wanted | unwanted)

    def test(column: _Column) -> Any:
        known = column(protocol_known) & (column("protocol") == _TCP) & (column("bits") & FLAGS_KNOWN != 0)
        return known & (column("flags") & mask == wanted)

    return MaskRunner(test)


FLAGS = Kind("flags", "TCP segments with flags set, or (!) not set", "[!]FLAG[,...]", _flags, _make_flags,
             predicate=True)  # fmt: skip

# --- vlan ------------------------------------------------------------------------------------------------------

_VLAN_MAX = 4095


def _vlan(parameter: str) -> str:
    return ranges_text(ranges_of(parameter, "a VLAN id", _VLAN_MAX)) if parameter.strip() else ""


def _make_vlan(call: Call) -> MaskRunner:
    if not call.parameter:
        return MaskRunner(lambda column: (column("ip_version") != 0) & (column("vlan_tags") != 0))
    table = ranges_table(ranges_of(call.parameter, "a VLAN id", _VLAN_MAX), _VLAN_MAX)

    def test(column: _Column) -> Any:
        tags = column("vlan_tags")
        outer = (tags >= 1) & table[column("vlan_outer") & _VLAN_MAX]
        return (column("ip_version") != 0) & (outer | (tags >= 2) & table[column("vlan_inner") & _VLAN_MAX])

    return MaskRunner(test)


VLAN = Kind("vlan", "packets with a VLAN tag, or with the first or last tag of some ids", "[ID[-ID][,...]]", _vlan,
            _make_vlan, predicate=True)  # fmt: skip

# --- tunnel ----------------------------------------------------------------------------------------------------

_TUNNELS = {tunnel.text: tunnel for tunnel in Tunnel if tunnel is not Tunnel.NONE}


def _tunnel_parts(parameter: str) -> tuple[Tunnel | None, int | None]:
    words = words_of(parameter)
    if not words:
        return None, None
    name = words[0][0].lower()
    if name not in _TUNNELS:
        raise ParameterError(suggest("tunnel", name[:40], _TUNNELS), words[0][1])
    if len(words) > 2:
        raise ParameterError("behind the name of a tunnel stands its id, and nothing else", words[2][1])
    number = whole_number(words[1][0], "the id of a tunnel", 0, 2**32 - 1, words[1][1]) if len(words) == 2 else None
    return _TUNNELS[name], number


def _tunnel(parameter: str) -> str:
    tunnel, number = _tunnel_parts(parameter)
    return " ".join(part for part in (tunnel.text if tunnel else "", "" if number is None else str(number)) if part)


def _make_tunnel(call: Call) -> MaskRunner:
    tunnel, number = _tunnel_parts(call.parameter)

    def test(column: _Column) -> Any:
        carried = (column("ip_version") != 0) & (column("tunnels") != 0)
        if tunnel is not None:
            carried &= column("tunnel") == tunnel
        return carried if number is None else carried & (column("tunnel_id") == number)

    return MaskRunner(test)


TUNNEL = Kind("tunnel", "packets that a tunnel carried, of any kind or of one, with an id", "[NAME [ID]]", _tunnel,
              _make_tunnel, predicate=True)  # fmt: skip
