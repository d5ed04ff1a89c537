"""How each tool is run on a capture, and what it says: one adapter a tool.

An adapter takes a Job and returns an Account; it only reads what the tool prints, and never judges. Tools run with
their defaults; only the idle timeout is set, in cases about it, where a tool lets it be set. A tool that fails says so
in `complaint`. `TOOLS` lists all with what they tell.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from flow_facts import Account, Flow, end

LIMIT_S = 20
TCP, UDP = 6, 17
NUMBERS = {"icmp": 1, "tcp": TCP, "udp": UDP, "ipv6-icmp": 58, "icmp6": 58, "icmpv6": 58, "sctp": 132}
COMPLAINT = re.compile(
    r"^.*\b(?:truncated|cut short|corrupt|damaged|unknown|unsupported|malformed|invalid|bogus|error)\b.*$",
    re.IGNORECASE | re.MULTILINE,
)
"""A line of standard error that says that something is wrong with the file."""


@dataclass(frozen=True, slots=True)
class Job:
    """A run of a tool.

    Attributes:
        captures: Read as one input, in this order.
        folder: Empty, for what the tool writes.
        python: The interpreter of a Python tool.
        idle_s: The idle timeout in seconds, where it is to be set.
    """

    captures: list[Path]
    folder: Path
    python: str
    idle_s: int | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool and what can be asked of it.

    Attributes:
        name: As in the head of the table.
        version: Command that prints it, and the expression that finds it; None for a Python package.
        package: Name of the Python package, or of the Debian package.
        run: The adapter.
        facts: Those of flow_facts.FACTS that it tells.
        protocols: IANA numbers that it has flows for; empty: any.
        ip6: It reads IPv6.
        one_way: A record a direction, not a flow.
        several: It takes several captures as one input.
        idle: Its idle timeout can be set.
    """

    name: str
    version: tuple[list[str], str] | None
    package: str
    run: Callable[[Job], Account]
    facts: tuple[str, ...]
    protocols: frozenset[int] = frozenset()
    ip6: bool = True
    one_way: bool = False
    several: bool = False
    idle: bool = False


def call(command: list[str], folder: Path) -> tuple[str, str, str]:
    """Run a command: standard output, standard error, and the complaint (a line of the latter, or the exit code)."""
    done = subprocess.run(command, capture_output=True, timeout=LIMIT_S, cwd=folder, check=False)
    output, talk = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    found = COMPLAINT.search(talk)
    complaint = found.group().strip() if found else f"exit code {done.returncode}" if done.returncode else ""
    return output, talk, complaint


def rows(text: str, delimiter: str = ",") -> Iterable[dict[str, str]]:
    """Lines with a head, as dictionaries."""
    return csv.DictReader(io.StringIO(text), delimiter=delimiter)


def span(text: str) -> tuple[int, ...]:
    """Frame numbers of `1-3,7`."""
    parts = [part.partition("-") for part in text.split(",") if part]
    return tuple(number for low, _, high in parts for number in range(int(low), int(high or low) + 1))


# --- the adapters ------------------------------------------------------------------------------------------------


def traceflow(job: Job) -> Account:
    """`traceflow flows`, through its command line like the others."""
    sides = [
        f"{side}_{name}"
        for side in ("orig", "resp")
        for name in ("addr", "port", "packets", "payload_octets", "frames")
    ]
    command = [
        sys.executable,
        "-m",
        "traceflow",
        "flows",
        "-T",
        "csv",
        "-q",
        "--fields",
        ",".join(["protocol", *sides, "end_cause"]),
    ]
    output, _, complaint = call([*command, *map(str, job.captures)], job.folder)
    flows = [
        Flow(
            int(row["protocol"]),
            end(row["orig_addr"], row["orig_port"] or 0),
            end(row["resp_addr"], row["resp_port"] or 0),
            (int(row["orig_packets"]), int(row["resp_packets"])),
            (int(row["orig_payload_octets"]), int(row["resp_payload_octets"])),
            (span(row["orig_frames"]), span(row["resp_frames"])),
            row["end_cause"],
        )
        for row in rows(output)
    ]
    return Account(flows, complaint)


def tshark(job: Job) -> Account:
    """Frames by `tcp.stream` and `udp.stream`; of frames in tunnels the innermost.

    Messages are not put together from segments: streams stay the same, and T17 takes 1 s instead of 50.
    """
    names = ["frame.number", "tcp.stream", "udp.stream", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst"]
    names += ["tcp.srcport", "tcp.dstport", "udp.srcport", "udp.dstport"]
    fields = [part for name in names for part in ("-e", name)]
    command = [
        "tshark",
        "-n",
        "-o",
        "tcp.desegment_tcp_streams:FALSE",
        "-r",
        str(job.captures[0]),
        "-T",
        "fields",
        "-E",
        "header=y",
        "-E",
        "occurrence=l",
        *fields,
    ]
    output, _, complaint = call(command, job.folder)
    streams: dict[tuple[int, str], list[tuple[int, tuple[str, int], tuple[str, int]]]] = {}
    for row in rows(output, "\t"):
        layer, protocol = ("tcp", TCP) if row["tcp.stream"] else ("udp", UDP)
        if row[f"{layer}.stream"]:
            ip = "ip" if row["ip.src"] else "ipv6"
            src = end(row[f"{ip}.src"], row[f"{layer}.srcport"])
            dst = end(row[f"{ip}.dst"], row[f"{layer}.dstport"])
            streams.setdefault((protocol, row[f"{layer}.stream"]), []).append((int(row["frame.number"]), src, dst))
    flows = []
    for (protocol, _), frames in streams.items():
        _, orig, resp = frames[0]
        sent = tuple(number for number, src, _ in frames if src == orig)
        got = tuple(number for number, src, _ in frames if src != orig)
        flows.append(Flow(protocol, orig, resp, (len(sent), len(got)), frames=(sent, got)))
    return Account(flows, complaint)


def argus(job: Job) -> Account:
    """Records of `ra`. One whose cause is Status goes on with the flow before it, unless that had ended."""
    log = job.folder / "argus"
    _, _, complaint = call(
        ["argus", "-F", "/dev/null", "-A", "-r", *map(str, job.captures), "-w", str(log)], job.folder
    )
    if not log.is_file():
        return Account([], complaint or "no output")
    columns = "proto,saddr,sport,daddr,dport,spkts,dpkts,sappbytes,dappbytes,state,cause"
    output, _, _ = call(
        ["ra", "-F", "/dev/null", "-n", "-c", ",", "-r", str(log), "-s", columns, "-", "ip", "or", "ipv6"], job.folder
    )
    return Account(argus_flows(output), complaint)


def argus_flows(output: str) -> list[Flow]:
    """The flows of records as `ra` prints them."""
    flows: list[Flow] = []
    running: dict[tuple[str, ...], int] = {}
    for row in rows(output):
        key = tuple(row[name] for name in ("Proto", "SrcAddr", "Sport", "DstAddr", "Dport"))
        if row["Proto"] not in NUMBERS:
            continue
        ports = (row["Sport"], row["Dport"]) if NUMBERS[row["Proto"]] in (TCP, UDP) else ("0", "0")
        ends = (end(row["SrcAddr"], ports[0]), end(row["DstAddr"], ports[1]))
        packets, payload = (int(row["SrcPkts"]), int(row["DstPkts"])), (int(row["SAppBytes"]), int(row["DAppBytes"]))
        if row["Cause"].strip() == "Status" and key in running:
            before = flows[running[key]]
            assert before.payload is not None
            packets = (before.packets[0] + packets[0], before.packets[1] + packets[1])
            payload = (before.payload[0] + payload[0], before.payload[1] + payload[1])
            flows[running[key]] = Flow(NUMBERS[row["Proto"]], *ends, packets, payload)
        else:
            running[key] = len(flows)
            flows.append(Flow(NUMBERS[row["Proto"]], *ends, packets, payload))
        if row["State"].strip() in ("FIN", "RST", "CLO"):
            running.pop(key, None)
    return flows


def tcptrace(job: Job) -> Account:
    """The long output, of TCP as csv; host a counts as the originator, being the left side of its `a2b` counters."""
    captures = [str(path) for path in job.captures]
    output, _, complaint = call(["tcptrace", "-n", "-l", "--csv", *captures], job.folder)
    lines = [line for line in output.splitlines() if line.startswith("conn_#") or re.match(r"\d+,", line)]
    flows = []
    for row in rows("\n".join(lines)):
        both = [(int(row[f"{name}_a2b"]), int(row[f"{name}_b2a"])) for name in ("total_packets", "actual_data_bytes")]
        flows.append(Flow(TCP, end(row["host_a"], row["port_a"]), end(row["host_b"], row["port_b"]), both[0], both[1]))
    # its csv of UDP is broken where a side sent nothing; its "data bytes sent" of UDP count the header of 8 octets
    output, _, _ = call(["tcptrace", "-n", "-l", "-u", *captures], job.folder)
    talk = output.partition("UDP connection info:")[2]
    ends = r"host \w+: +(\S+):(\d+)\s+host \w+: +(\S+):(\d+).*?"
    counters = r"total packets: +(\d+) +total packets: +(\d+)\s+data bytes sent: +(\d+) +data bytes sent: +(\d+)"
    for a, a_port, b, b_port, *numbers in re.findall(ends + counters, talk.replace("\t", " "), re.DOTALL):
        sent, got, octets_sent, octets_got = map(int, numbers)
        payload = (octets_sent - 8 * sent, octets_got - 8 * got)
        flows.append(Flow(UDP, end(a, a_port), end(b, b_port), (sent, got), payload))
    return Account(flows, complaint)


def nfpcapd(job: Job) -> Account:
    """Records of nfpcapd as nfdump prints them: one a direction."""
    idle = ["-e", f"3600,{job.idle_s}"] if job.idle_s else []
    (job.folder / "records").mkdir()
    _, talk, complaint = call(["nfpcapd", *idle, "-r", str(job.captures[0]), "-w", "records"], job.folder)
    # it counts what it has not understood under "unknown" in a line that is no complaint
    complaint = "" if complaint.startswith(("Processed", "Total")) and "PCAP error" not in talk else complaint
    output, _, _ = call(["nfdump", "-q", "-N", "-6", "-R", "records", "-o", "fmt:%pr,%sa,%sp,%da,%dp,%pkt"], job.folder)
    flows = []
    for line in output.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 6 and cells[0].isdigit():
            ports = (cells[2], cells[4]) if int(cells[0]) in (TCP, UDP) else ("0", "0")
            flows.append(Flow(int(cells[0]), end(cells[1], ports[0]), end(cells[3], ports[1]), (int(cells[5]), 0)))
    return Account(flows, complaint)


def softflowd(job: Job) -> Account:
    """What it says about flows that expire in debug mode; it names the lower address first, not the originator.

    Its timeouts can be set, but end nothing while a capture is read: all flows expire at the end.
    """
    files = ["-p", str(job.folder / "pid"), "-c", str(job.folder / "ctl")]
    _, talk, complaint = call(["softflowd", "-D", *files, "-r", str(job.captures[0])], job.folder)
    line = r"EXPIRED: seq:\d+ \[(\S+)\]:(\d+) <> \[(\S+)\]:(\d+) proto:(\d+) .*?packets>:(\d+) .*?packets<:(\d+)"
    flows = [
        Flow(int(protocol), end(a, a_port), end(b, b_port), (int(sent), int(got)))
        for a, a_port, b, b_port, protocol, sent, got in re.findall(line, talk)
    ]
    return Account(flows, complaint)


def ndpi_reader(job: Job) -> Account:
    """Its verbose list; its csv leaves out flows of an application that it does not know."""
    output, talk, complaint = call(["ndpiReader", "-v", "2", "-t", "-i", str(job.captures[0])], job.folder)
    if found := re.search(r"^error.*$", talk + output, re.IGNORECASE | re.MULTILINE):
        complaint = found.group()
    line = r"^\t\d+\t(\S+) (\S+) <?-> (\S+) .*?\[(\d+) pkts/\d+ bytes <?-> (\d+) pkts/"
    flows = []
    for name, orig, resp, sent, got in re.findall(line, output, re.MULTILINE):
        protocol = int(name) if name.isdigit() else NUMBERS.get(name.lower(), 0)
        ends = []
        for text in (orig, resp):
            address, _, port = text.rpartition(":") if "]" in text or text.count(":") == 1 else (text, "", "0")
            ends.append(end(address.strip("[]"), port))
        flows.append(Flow(protocol, ends[0], ends[1], (int(sent), int(got))))
    return Account(flows, complaint)


def _json_flows(command: list[str], folder: Path) -> Account:
    """Runs one of the scripts below: a flow a line, as a list of the arguments of Flow."""
    output, _, complaint = call(command, folder)
    flows = []
    for line in output.splitlines():
        if line.startswith("["):
            protocol, orig, resp, packets, payload, frames = json.loads(line)
            numbers = None if frames is None else (tuple(frames), ())
            flows.append(Flow(protocol, end(*orig), end(*resp), tuple(packets), payload and tuple(payload), numbers))
    return Account(flows, complaint)


_NFSTREAM = """
import json, sys
from nfstream import NFStreamer
if __name__ == "__main__":
    idle, *captures = sys.argv[1:]
    chosen = {"idle_timeout": int(idle)} if int(idle) else {}
    source = captures if len(captures) > 1 else captures[0]
    for flow in NFStreamer(source=source, accounting_mode=3, n_dissections=0, **chosen):
        print(json.dumps([flow.protocol, (flow.src_ip, flow.src_port), (flow.dst_ip, flow.dst_port),
            (flow.src2dst_packets, flow.dst2src_packets), (flow.src2dst_bytes, flow.dst2src_bytes), None]))
"""


def nfstream(job: Job) -> Account:
    """NFStreamer, counting payload."""
    script = job.folder / "nfstream_flows.py"
    script.write_text(_NFSTREAM)
    return _json_flows([job.python, str(script), str(job.idle_s or 0), *map(str, job.captures)], job.folder)


def cicflowmeter(job: Job) -> Account:
    """Its csv, by the folder mode: `-f` of 0.5.0 stops with an exception."""
    (job.folder / "in").mkdir()
    shutil.copy(job.captures[0], job.folder / "in")
    output, _, complaint = call([job.python, "-m", "cicflowmeter.sniffer", "-d", "in", "-c", "out"], job.folder)
    if found := re.search(r"^Error processing.*$", output, re.MULTILINE):
        complaint = found.group()
    path = job.folder / "out" / f"{job.captures[0].stem}.csv"
    flows = [
        Flow(
            int(row["protocol"]),
            end(row["src_ip"], row["src_port"]),
            end(row["dst_ip"], row["dst_port"]),
            (int(row["tot_fwd_pkts"]), int(row["tot_bwd_pkts"])),
        )
        for row in (rows(path.read_text()) if path.is_file() else [])
    ]
    return Account(flows, complaint)


_PYPCAPKIT = """
import ipaddress, json, re, sys
from pcapkit import extract
def address(text):
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:  # labels have dots in the place of colons
        return text.replace(".", ":")
traced = extract(fin=sys.argv[1], nofile=True, store=False, tcp=True, trace=True)
for buffer in traced.trace.tcp or ():
    src, src_port, dst, dst_port = re.fullmatch(r"(.+)_(\\d+)-(.+)_(\\d+)-[^-]+", buffer.label).groups()
    ends = (address(src), int(src_port)), (address(dst), int(dst_port))
    print(json.dumps([6, *ends, (len(buffer.index), 0), None, buffer.index]))
"""


def pypcapkit(job: Job) -> Account:
    """Buffers of its TCP flow tracer: one a direction."""
    script = job.folder / "pcapkit_flows.py"
    script.write_text(_PYPCAPKIT)
    return _json_flows([job.python, str(script), str(job.captures[0])], job.folder)


def zeek(job: Job) -> Account:
    """conn.log; -C: checksums are not looked at."""
    _, _, complaint = call(["zeek", "-C", "-r", str(job.captures[0]), "LogAscii::use_json=T"], job.folder)
    path = job.folder / "conn.log"
    return Account(zeek_flows(path.read_text()) if path.is_file() else [], complaint)


def zeek_flows(log: str) -> list[Flow]:
    """The flows of a conn.log in JSON; what is unset is left out in it."""
    flows = []
    for row in map(json.loads, log.splitlines()):
        protocol = NUMBERS.get(row["proto"], row.get("ip_proto", 0))
        if protocol == NUMBERS["icmp"] and ":" in row["id.orig_h"]:
            protocol = NUMBERS["ipv6-icmp"]
        packets = (row.get("orig_pkts", 0), row.get("resp_pkts", 0))
        ends = (end(row["id.orig_h"], row["id.orig_p"]), end(row["id.resp_h"], row["id.resp_p"]))
        flows.append(Flow(protocol, *ends, packets))
    return flows


# --- all of them -------------------------------------------------------------------------------------------------

_TWO_WAY = ("ends", "packets", "originator")
_TCP_UDP = frozenset({TCP, UDP})

TOOLS = (
    Tool("traceflow", ([sys.executable, "-m", "traceflow", "--version"], r"(\d+\.\d[\w.]*)"), "", traceflow,
         (*_TWO_WAY, "payload", "frames", "end"), several=True),
    Tool("tshark", (["tshark", "-v"], r"TShark \(Wireshark\) ([\d.]+)"), "tshark", tshark,
         ("ends", "packets", "frames"), _TCP_UDP),
    Tool("argus", (["argus", "-h"], r"Argus Version ([\d.]+)"), "argus-server, argus-client", argus,
         (*_TWO_WAY, "payload"), several=True),
    Tool("tcptrace", (["tcptrace", "-v"], r"tcptrace -- version ([\d.]+)"), "tcptrace", tcptrace,
         (*_TWO_WAY, "payload"), _TCP_UDP, several=True),
    Tool("nfpcapd", (["nfpcapd", "-V"], r"Version: ([\d.]+)"), "nfdump", nfpcapd,
         ("ends", "packets"), one_way=True, idle=True),
    Tool("softflowd", (["softflowd", "-h"], r"version ([\d.]+)"), "softflowd", softflowd,
         ("ends", "packets")),
    Tool("ndpiReader", (["ndpiReader", "-h"], r"nDPI ([\d.]+)"), "libndpi-bin", ndpi_reader,
         _TWO_WAY),
    Tool("NFStream", None, "nfstream", nfstream, (*_TWO_WAY, "payload"), several=True, idle=True),
    Tool("cicflowmeter", None, "cicflowmeter", cicflowmeter, _TWO_WAY, _TCP_UDP, ip6=False),
    Tool("PyPCAPKit", None, "pypcapkit", pypcapkit, ("ends", "packets", "frames"), frozenset({TCP}), one_way=True),
    Tool("Zeek", (["zeek", "--version"], r"version ([\w.]+)"), "zeek", zeek, _TWO_WAY),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Installed:
    """A tool that is there, its version, and the interpreter that has it."""

    tool: Tool
    version: str
    python: str


def installed(tool: Tool, pythons: list[str]) -> Installed | None:
    """Look for a tool: a program on the path, or a package of one of the interpreters, the first that has it."""
    if tool.version:
        command, expression = tool.version
        if shutil.which(command[0]):
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=LIMIT_S, check=False
            )
            found = re.search(expression, done.stdout + done.stderr)
            return Installed(tool, found.group(1).rstrip(".") if found else "?", sys.executable)
        return None
    code = f"import importlib.metadata as m; print(m.version({tool.package!r}))"
    for python in pythons:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=LIMIT_S, check=False)
        if not done.returncode:
            return Installed(tool, done.stdout.strip(), python)
    return None
