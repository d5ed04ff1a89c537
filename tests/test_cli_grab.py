"""`traceflow grab`: the file and its mistakes, counts, outputs, policy, pictures, what fails, what is interrupted.

Numbers: T01.pcap has ten frames of TCP, 1 ms apart from 1700000000.000 on, of 54, 54, 54, 57, 60 and five times 54
octets: 549 in all, 279 in the first 5 ms. Its odd frames have 54 + 54 + 60 + 54 + 54 = 276. Of http.pcap tcpdump says
(`tcpdump -r fixtures/http.pcap --count EXPR`): 59 frames, 26 of `tcp port 80`, 6 of `port 53`, 14 of `ip6`.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from needs import LIBPCAP

import traceflow
from traceflow.cli.exits import Exit
from traceflow.sources import open_source

Cli = Callable[..., tuple[int, str, str]]

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
T01, HTTP, RAW = FIXTURES / "T01.pcap", FIXTURES / "http.pcap", FIXTURES / "links-raw.pcap"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(traceflow.__file__).resolve().parents[1])}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def grab_file(text: str, name: str = "grab.toml") -> str:
    Path(name).write_text(text, "utf-8")
    return name


def counters(out: str) -> dict[tuple[str, str, str], int]:
    """The rows of the final table by grabber, node and counter."""
    rows = list(csv.DictReader(io.StringIO(out)))
    return {(row["grabber"], row["node"], row["counter"]): int(row["value"]) for row in rows}


def frames_of(path: str) -> list[tuple[int, int, int]]:
    """Link type, captured and original octets of each frame of a capture."""
    with open_source(path) as captures:
        found = [(int(f["link"]), int(f["captured"]), int(f["wire"])) for b in captures.batches() for f in b.frames]
        assert captures.errors == []
    return found


# --- counting --------------------------------------------------------------------------------------------------


def test_grabbers_of_one_source_count_and_share(cli: Cli) -> None:
    file = grab_file("""
        [grabbers.odd]
        graph = '(sampler,2) -> (bytecount)'
        [grabbers.web]
        graph = '(sampler,2) -> (port,80) -> (packetcount)'
        [grabbers.rest]
        active = false
        graph = '(packetcount)'
    """)
    code, out, err = cli("grab", file, T01)
    assert code == Exit.OK
    assert out.splitlines()[0] == "grabber,node,counter,value"
    assert counters(out) == {
        ("odd", "", "packets"): 5, ("odd", "", "octets"): 276, ("odd", "(sampler,2)", "packets"): 10,
        ("odd", "(sampler,2)", "passed"): 5, ("odd", "(bytecount)", "octets"): 276,
        ("web", "", "packets"): 5, ("web", "", "octets"): 276, ("web", "(sampler,2)", "packets"): 10,
        ("web", "(sampler,2)", "passed"): 5, ("web", "(packetcount)", "packets"): 5,
        ("rest", "", "packets"): 0, ("rest", "", "octets"): 0,
    }  # fmt: skip
    assert "grabber odd: packets 5, octets 276, lost 0, dropped 0\n  (sampler,2): packets 10, passed 5\n" in err
    assert "frames read 10, octets 549, devices 1\n" in err
    assert "grabbers 3: to the end 2, closed before 0, not active 1, rejected 0\n" in err


@LIBPCAP
def test_what_tcpdump_counts(cli: Cli) -> None:
    file = grab_file("""
        [grabbers.web]
        graph = '(BPF,"tcp port 80") -> (packetcount)'
        [grabbers.dns]
        graph = '(port,53)'
        [grabbers.six]
        graph = '(ip,6)'
    """)
    code, out, err = cli("grab", file, "-q", "-T", "jsonl", HTTP)
    rows = [json.loads(line) for line in out.splitlines()]
    found = {row["grabber"]: row["value"] for row in rows if row["node"] is None and row["counter"] == "packets"}
    assert (code, err, found) == (Exit.OK, "", {"web": 26, "dns": 6, "six": 14})


def test_devices_by_name_from_the_file_and_from_the_command_line(cli: Cli) -> None:
    file = grab_file(f"""
        [source]
        east = "{T01}"
        west = "{HTTP}"
        [grabbers.both]
        nodes = {{ s = '(sampler,2)', c = '(packetcount)' }}
        edges = ["east -> s -> c", "west -> s"]
        [grabbers.east]
        graph = '(device,east) -> (packetcount)'
        [grabbers.usual]
        graph = '(packetcount)'
    """)
    # both: the odd ones of 10 + 59 frames
    packets = {("both", 35), ("east", 10), ("usual", 69)}
    code, out, _ = cli("grab", file, "-q")
    assert (code, {(key[0], n) for key, n in counters(out).items() if key[1:] == ("", "packets")}) == (0, packets)
    # the command line wins: east is http.pcap now, and what names no device reads that alone
    packets = {("both", 59), ("east", 59), ("usual", 59)}
    code, out, _ = cli("grab", file, "-q", f"east={HTTP}")
    assert (code, {(key[0], n) for key, n in counters(out).items() if key[1:] == ("", "packets")}) == (0, packets)


def test_a_limit_over_all_devices(cli: Cli) -> None:
    file = grab_file("[grabbers.all]\ngraph = '(packetcount)'\n")
    for limit in (4, 10, 12, 100):
        code, out, _ = cli("grab", file, "-q", "-c", str(limit), T01, f"again={T01}")
        assert (code, counters(out)["all", "", "packets"]) == (Exit.OK, min(limit, 20))


# --- outputs ---------------------------------------------------------------------------------------------------


def test_all_outputs(cli: Cli) -> None:
    file = grab_file("""
        [grabbers.odd]
        nodes = { s = '(sampler,2)', t = '(truncate,40)', c = '(packetcount)' }
        edges = ["s -> t -> c"]
        packets = { file = "odd.pcap" }
        counters = { file = "counters.csv", interval = "5ms" }
        [grabbers.flows]
        graph = '(protocol,tcp)'
        flows = { file = "flows.jsonl", fields = ["flow", "label", "packets", "wire_octets"] }
        files = { folder = "files", format = "pcap" }
    """)
    code, out, _ = cli("grab", file, T01)
    assert code == Exit.OK
    assert ("odd", "(packetcount)", "packets") in counters(out), "no output went to standard output"
    assert frames_of("odd.pcap") == [(1, 40, 54), (1, 40, 54), (1, 40, 60), (1, 40, 54), (1, 40, 54)]
    # in the first 5 ms frames 1, 3, 5 pass: 54 + 54 + 60; then 7 and 9
    assert Path("counters.csv").read_text() == (
        "time,packets,octets,s_packets,s_passed,c_packets\n"
        "1700000000.005000,3,168,5,3,3\n"
        "1700000000.010000,5,276,10,5,5\n"
    )
    (row,) = map(json.loads, Path("flows.jsonl").read_text().splitlines())
    label = "10.0.0.1_1000-10.0.0.2_80-1700000000.000000"
    assert row == {"flow": 1, "label": label, "packets": 10, "wire_octets": 549}
    assert sorted(path.name for path in Path("files").iterdir()) == [f"{label}.pcap", "index.json"]
    assert len(frames_of(f"files/{label}.pcap")) == 10
    assert json.loads(Path("files/index.json").read_text())["frames"] == 10

    # once more: all that is there is named, and stays as it is, unless it may be replaced
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    code, out, err = cli("grab", file, T01)
    assert (code, out) == (Exit.FAILED, "")
    assert all(name in err for name in ("odd.pcap exists", "counters.csv exists", "flows.jsonl exists", "--overwrite"))
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    assert cli("grab", file, T01, "--overwrite")[0] == Exit.OK
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_rows_to_standard_output_take_its_place(cli: Cli) -> None:
    file = grab_file("""
        [grabbers.flows]
        graph = '(port,80)'
        flows = { file = "-", profile = "zeek", fields = "flow,packets", plugins = ["tcpflags"] }
        [grabbers.none]
        graph = '(port,81)'
        packets = { file = "none.pcap" }
    """)
    assert cli("grab", file, "-q", T01) == (Exit.OK, "flow,packets\n1,10\n", "")
    assert cli("grab", file, "-q", "-T", "jsonl", T01, "--overwrite") == (0, '{"flow":1,"packets":10}\n', "")
    assert frames_of("none.pcap") == [], "a capture without frames"


def test_rules_of_flows(cli: Cli) -> None:
    # each frame is 1 ms behind the one before
    file = grab_file("""
        [grabbers.a]
        graph = '(port,80)'
        flows = { options = { idle_timeout = "500us", linger = "1us", tcp_end = "never", outer = true } }
    """)
    code, _, err = cli("grab", file, T01)
    assert code == Exit.OK
    assert "  flows 10, ended by: idle 9, " in err


# --- mistakes --------------------------------------------------------------------------------------------------

WRONG = """\
polcy = "x"
[buffer]
size = "lots"
mode = "overwrit"
[grabbers.a]
graph = '(device,eth9) -> (samplr,2)'
flows = { file = "-", profile = "tsharc", fields = "flow,labl", options = { idle_timeot = "9s", linger = "x" } }
[grabbers.b]
nodes = { s = '(sampler,2)', u = '(ip,4) -> (ip,6)' }
edges = ["s -> q", "x"]
[grabbers.c]
nodes = { s = '(sampler,2)', t = '(port,80)' }
edges = ["s -> t", "t -> s"]
packets = { file = "-" }
counters = { file = "c.csv", interval = "1us" }
[grabbers.d]
active = 1
[grabbers.e]
graph = '(device,nosuch) -> (ip,4)'
files = { folder = "x", max_open_files = 0, by = "frame" }
flows = { fields = "frames" }
"""


def test_all_mistakes_at_once_with_their_lines(cli: Cli) -> None:
    code, out, err = cli("grab", grab_file(WRONG), T01)
    assert (code, out) == (Exit.USAGE, "")
    assert "Traceback" not in err
    found = re.findall(r"^  grab\.toml:(\d+): (.*?): ", err, flags=re.MULTILINE)
    assert found == [
        ("1", "polcy"), ("3", "buffer, size"), ("4", "buffer, mode"), ("6", "grabbers, a, graph"),
        ("7", "grabbers, a, flows, fields"), ("7", "grabbers, a, flows, options, idle_timeot"),
        ("7", "grabbers, a, flows, options, linger"), ("7", "grabbers, a, flows, profile"),
        ("9", "grabbers, b, nodes, u"), ("10", "grabbers, b, edges"), ("10", "grabbers, b, edges"),
        ("13", "grabbers, c, edges"), ("14", "grabbers, c, packets, file"), ("15", "grabbers, c, counters, interval"),
        ("16", "grabbers, d"), ("17", "grabbers, d, active"), ("19", "grabbers, e, graph"),
        ("20", "grabbers, e, files, by"), ("20", "grabbers, e, files, max_open_files"),
        ("21", "grabbers, e, flows, fields"),
    ]  # fmt: skip
    for hint in ("Did you mean policy?", "Did you mean sampler?", "Did you mean tshark?", "Did you mean idle_timeout",
                 "s -> t -> s", "unknown node 'q'", "unknown device 'nosuch'"):  # fmt: skip
        assert hint in err
    assert "      (device,eth9) -> (samplr,2)\n                        ^\n" in err, "the place is shown"


@pytest.mark.parametrize(("text", "arguments", "message"), [
    ("[grabbers]", [T01], "there is no grabber"),
    ("", [T01], "there is no grabber"),
    ("[grabbers.a\n", [T01], "grab.toml:1: "),
    ("[grabbers.a]\ngraph = '(ip,4)'", [], "grabbers, a: its graph names no device"),
    ("[grabbers.a]\ngraph = '(ip,4)'\nnodes = {}", [T01], "not both"),
    ("[grabbers.a]\nnodes = {}", [T01], "it is empty"),
    ("[grabbers.a]\nedges = ['a -> b']", [T01], "edges connect nodes"),
    ("[grabbers.a]\ngraph = '(ip,4)'\ncounters = {file = '-'}\nflows = {file = '-'}", [T01],
     "standard output is the output of grabber a, counters already"),
    ("[grabbers.a]\ngraph = '(ip,4)'\npackets = {file = 'x'}\n[grabbers.b]\ngraph = '(ip,6)'\nflows = {file = './x'}",
     [T01], "./x is the output of grabber a, packets already"),
    ("[grabbers.a]\ngraph = '(ip,4)'\nfiles = {folder = 'x'}\npackets = {file = 'x/y'}", [T01], "the folder of flow"),
    ("[grabbers.a]\ngraph = '(ip,4)'\npackets = {file = 'grab.toml'}", [T01], "grab.toml is an input"),
    ("[grabbers.a]\ngraph = '(ip,4)'", [T01, "--snaplen", "60"], "--snaplen is for interfaces"),
    ("[grabbers.a]\ngraph = '(ip,4)'", [T01, "--user", "me"], "--user is for a policy"),
    ("[grabbers.a]\ngraph = '(ip,4)'", [T01, "-i", "lo"], "leave it out"),
    ("[grabbers.a]\ngraph = '(ip,4)'", [f"a={T01}", f"a={HTTP}"], "two devices have the name a"),
    ("[grabbers.a]\ngraph = '(ip,4)'", ["a=-", "b=-"], "are both standard input"),
    ("[grabbers.a]\ngraph = '(ip,4)'", [T01, "--draw", "x.png"], ".dot or a .svg"),
    # without a word, lo would be captured, and the file that was named not be read
    ("[grabbers.a]\ngraph = '(device,lo) -> (ip,4)'", [T01], f"no graph reads it, they read lo; write lo={T01}, or"),
    ("[grabbers.a]\ngraph = '(device,lo) -> (ip,4)'", ["-i", "x"], "no graph reads it, they read lo; write -i lo=x"),
])  # fmt: skip
def test_what_cannot_be_meant(cli: Cli, text: str, arguments: list[str | Path], message: str) -> None:
    code, out, err = cli("grab", grab_file(text), *arguments)
    assert (code, out) == (Exit.USAGE, "")
    assert message in err
    assert [path.name for path in Path().iterdir()] == ["grab.toml"], "nothing was made"


def test_an_output_that_is_the_capture(cli: Cli) -> None:
    shutil.copy(T01, "in.pcap")
    Path("link.pcap").symlink_to("in.pcap")
    file = grab_file("[grabbers.a]\ngraph = '(ip,4)'\npackets = { file = 'link.pcap' }\n")
    code, _, err = cli("grab", file, "in.pcap", "--overwrite")
    assert (code, Path("in.pcap").read_bytes()) == (Exit.USAGE, T01.read_bytes())
    assert "link.pcap is an input" in err


def test_files_that_are_not_there(cli: Cli) -> None:
    code, _, err = cli("grab", "absent.toml", T01)
    assert (code, "the grab file 'absent.toml' cannot be read" in err) == (Exit.FAILED, True)
    file = grab_file("[grabbers.a]\ngraph = '(ip,4)'\n")
    code, out, err = cli("grab", file, "./absent.pcap")
    assert (code, out) == (Exit.FAILED, "")
    assert "failed: " in err
    code, out, err = cli("grab", file, T01, "./absent.pcap")
    assert (code, counters(out)["a", "", "packets"]) == (Exit.INCOMPLETE, 10)
    assert "incomplete: " in err
    code, _, err = cli("grab", file, T01, "--policy", "absent.toml")
    assert (code, "without it nothing may run" in err) == (Exit.FAILED, True)


# --- the policy, and pictures ----------------------------------------------------------------------------------

POLICY = """
[[allow]]
function = "*"
[[require]]
function = "search"
after = "sampler"
devices = "*T01.pcap"
"""
SEARCHES = f"""
policy = "policy.toml"
[source]
lab = "{T01}"
[grabbers.sampled]
graph = '(device,lab) -> (sampler,2) -> (search,x) -> (packetcount)'
[grabbers.all]
graph = '(device,lab) -> (search,x) -> (packetcount)'
packets = {{ file = "all.pcap" }}
"""


def test_the_policy_decides_who_runs(cli: Cli) -> None:
    grab_file(POLICY, "policy.toml")
    file = grab_file(SEARCHES)
    # [source] calls the capture lab; the rule for its real name holds all the same
    code, out, err = cli("grab", file, "--check", "--user", "guest")
    assert (code, err) == (Exit.FAILED, "")
    first, second, reason = out.splitlines()
    assert first == "sampled: accepted for user guest"
    assert second == "all: rejected for user guest, 1 reason:"
    assert "needed is sampler before it" in reason
    code, out, err = cli("grab", file)
    assert (code, counters(out)["sampled", "(sampler,2)", "passed"]) == (Exit.INCOMPLETE, 5)
    assert "grabber all was rejected" in err
    assert "needed is sampler before it" in err
    assert "grabbers 2: to the end 1, closed before 0, not active 0, rejected 1" in err
    assert not Path("all.pcap").exists()
    nothing = grab_file("", "nothing.toml")
    code, out, err = cli("grab", file, "--policy", nothing)
    assert (code, out, err.count("was rejected")) == (Exit.FAILED, "", 2)
    wrong = grab_file("[[alow]]\n", "wrong.toml")
    code, out, err = cli("grab", file, "--policy", wrong, "--check")
    assert (code, out, "wrong.toml:1: " in err) == (Exit.USAGE, "", True)
    code, out, _ = cli("grab", grab_file("[grabbers.a]\ngraph = '(ip,4)'\n"), T01, "--check")
    assert (code, out) == (Exit.OK, "there is no policy: all grabbers may run\n")


def test_a_picture_of_all_graphs_as_one(cli: Cli) -> None:
    grab_file(POLICY, "policy.toml")
    file = grab_file(SEARCHES)
    code, out, _ = cli("grab", file, "--draw", "-")
    # one device, a sampler, two searches and two counters behind different filters; and two grabbers
    boxes = re.findall(r'^  (\w+) \[label="([^"]*)"', out, flags=re.MULTILINE)
    assert (code, [label for name, label in boxes if name.startswith("n")]) == (Exit.OK, [
        "(device,lab)", "(sampler,2)", "(search,x)", "(packetcount)", "(search,x)", "(packetcount)"])  # fmt: skip
    assert [label for name, label in boxes if name.startswith("r")] == ["sampled", "all"]
    assert cli("grab", file, "--draw", "all.dot")[0] == Exit.OK
    assert Path("all.dot").read_text() == out
    assert cli("grab", file, "--draw", "all.dot")[0] == Exit.FAILED
    assert cli("grab", file, "--draw", "all.dot", "--overwrite")[0] == Exit.OK


def test_svg_where_graphviz_is(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    file = grab_file("[grabbers.a]\ngraph = '(ip,4)'\n")
    if shutil.which("dot") is not None:
        assert cli("grab", file, T01, "--draw", "a.svg")[0] == Exit.OK
        assert "</svg>" in Path("a.svg").read_text()
    monkeypatch.setenv("PATH", "")
    code, _, err = cli("grab", file, T01, "--draw", "b.svg")
    assert (code, "install the package graphviz" in err) == (Exit.USAGE, True)


# --- what fails ------------------------------------------------------------------------------------------------


@LIBPCAP
def test_a_grabber_that_fails_is_closed_and_others_go_on(cli: Cli) -> None:
    file = grab_file("""
        [grabbers.wifi]
        graph = '(BPF,"type data subtype qos-data") -> (packetcount)'
        [grabbers.all]
        graph = '(packetcount)'
    """)
    code, out, err = cli("grab", file, T01)
    assert (code, counters(out)["all", "", "packets"]) == (Exit.INCOMPLETE, 10)
    assert "grabber wifi was closed: " in err
    assert "to the end 1, closed before 1," in err
    only = grab_file("[grabbers.wifi]\ngraph = '(BPF,\"type data subtype qos-data\")'\n", "only.toml")
    assert cli("grab", only, T01)[:2] == (Exit.FAILED, "")


def test_two_link_types_in_one_capture_file(cli: Cli) -> None:
    file = grab_file("[grabbers.a]\ngraph = '(packetcount)'\npackets = { file = 'a.pcap' }\n")
    code, _, err = cli("grab", file, T01, RAW)
    assert code == Exit.INCOMPLETE
    assert "a.pcap holds frames of link type 1, and one of link type 101 came; have a grabber for each" in err
    assert len(frames_of("a.pcap")) == 10, "those before it are there"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk(cli: Cli) -> None:
    file = grab_file("""
        [grabbers.full]
        graph = '(ip,4)'
        flows = { file = "/dev/full" }
        [grabbers.other]
        graph = '(ip,4)'
        flows = { file = "flows.csv", fields = "flow" }
    """)
    code, out, err = cli("grab", file, T01)
    assert (code, counters(out)["other", "", "packets"]) == (Exit.INCOMPLETE, 10)
    assert err.count("grabber full was closed: cannot append to /dev/full: No space left on device") == 1
    assert Path("flows.csv").read_text() == "flow\n1\n"


def test_a_buffer_that_is_too_small_is_said(cli: Cli) -> None:
    # a batch of ten packets, and room for four: the last four are there
    file = grab_file("""
        [buffer]
        packets = 4
        [grabbers.a]
        graph = '(ip,4)'
        packets = { file = "a.pcap" }
    """)
    code, _, err = cli("grab", file, T01)
    assert (code, len(frames_of("a.pcap"))) == (Exit.INCOMPLETE, 4)
    assert "6 packets were not written, as the buffer had no room" in err
    assert "packets 10, octets 549, lost 6, dropped 0" in err


# --- processes -------------------------------------------------------------------------------------------------


@pytest.mark.once("a process whose reader goes away")
def test_a_reader_that_goes_away() -> None:
    file = grab_file("[grabbers.a]\ngraph = '(ip,4)'\nflows = { file = '-' }\n")
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "traceflow", "grab", "-q", file, str(T01)]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, env=ENVIRONMENT, check=False, timeout=60)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (Exit.PIPE_CLOSED, b"")


@pytest.mark.once("a process that is interrupted")
def test_an_interrupted_run_leaves_whole_files() -> None:
    file = grab_file("""
        [grabbers.a]
        graph = '(packetcount)'
        packets = { file = "a.pcap" }
        flows = { file = "-", fields = "flow,packets" }
        files = { folder = "files" }
    """)
    process = subprocess.Popen(
        [sys.executable, "-m", "traceflow", "grab", file, "-"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(HTTP.read_bytes())
    process.stdin.flush()
    for _ in range(600):  # until the packets are there; the input goes on
        if Path("a.pcap").exists() and Path("a.pcap").stat().st_size > 59 * 16:
            break
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    head, *rows = [line.split(b",") for line in out.splitlines()]
    assert (head, process.returncode) == ([b"flow", b"packets"], Exit.INTERRUPTED)
    assert sum(int(packets) for _, packets in rows) == 55, "of 59 frames 4 are no IP packets"
    assert len(frames_of("a.pcap")) == 59
    index = json.loads(Path("files/index.json").read_text())
    assert (len(index["files"]), index["frames"]) == (11, 59)
    assert b"frames read 59," in err
    assert b"Traceback" not in err


@pytest.mark.once("a live capture")
@pytest.mark.skipif(sys.platform != "linux", reason="the loopback interface of Linux")
def test_interfaces() -> None:
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except OSError:
        pytest.skip("no permission to capture")
    receiver, sender = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    with receiver, sender:
        receiver.bind(("127.0.0.1", 0))
        port = receiver.getsockname()[1]
        file = grab_file(f"""
            [grabbers.a]
            graph = '(device,wan) -> (port,dst {port}) -> (packetcount)'
            packets = {{ file = "a.pcap" }}
            [grabbers.b]
            graph = '(device,any) -> (port,dst {port})'
            flows = {{ file = "b.csv", fields = "resp_port,packets" }}
        """)
        arguments = ("-i", "wan=lo", "-i", "any", "--snaplen", "60", "--duration", "60s")
        process = subprocess.Popen(
            [sys.executable, "-m", "traceflow", "grab", file, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True,
        )  # fmt: skip
        assert process.stderr is not None
        assert any("capturing on lo, any" in line for line in process.stderr)
        for _ in range(5):
            sender.sendto(bytes(100), ("127.0.0.1", port))
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == Exit.TERMINATED
    # Ethernet, IP and UDP headers: 14 + 20 + 8; the frames in hand when it is stopped are delivered
    assert counters(out)["a", "", "octets"] == 5 * 142
    assert frames_of("a.pcap") == [(1, 60, 142)] * 5
    # all interfaces at once have them too, with another link header
    assert Path("b.csv").read_text() == f"resp_port,packets\n{port},5\n"
    assert "kernel drops 0" in err


@pytest.mark.once("a terminal")
def test_a_live_table_on_a_terminal_only() -> None:
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    file = grab_file("[grabbers.a]\ngraph = '(packetcount)'\n")
    octets = HTTP.read_bytes()
    for quiet in (False, True):
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 100))
        process = subprocess.Popen(
            [sys.executable, "-m", "traceflow", "grab", file, "-", *(["-q"] if quiet else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=theirs, env={**ENVIRONMENT, "TERM": "xterm-256color"},
        )  # fmt: skip
        os.close(theirs)
        assert process.stdin is not None
        process.stdin.write(octets)
        shown = b""
        for _ in range(20_000 if not quiet else 20):
            process.stdin.write(octets[24:] * 10)
            process.stdin.flush()
            os.set_blocking(ours, False)
            try:
                shown += os.read(ours, 65536)
            except BlockingIOError:
                continue
            if b"packets/s" in shown:
                break
        out, _ = process.communicate(timeout=60)
        os.set_blocking(ours, False)
        assert (process.returncode, b"packets/s" in shown) == (0, not quiet)
        assert counters(out.decode())["a", "", "packets"] % 59 == 0
        os.close(ours)
