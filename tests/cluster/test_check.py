"""`k2mlx cluster check`: hosts on loopback by an ssh that stays here, and Macs by hand."""

import json
import shutil
import sys

import pytest

from k2mlx.cli import main
from k2mlx.cluster import visit as visits
from k2mlx.cluster.hostfile import Host, HostFile
from k2mlx.cluster.judge import Link, Visit, judge
from k2mlx.home import find_model
from tests.cluster.macs import place_ssh, write
from tests.test_house import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 needs Linux")


@pytest.fixture
def hosts(tmp_path, monkeypatch):
    """Hosts `one` and `two`; `k2py` is each one's Python, with a home of its own."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    place_ssh(tmp_path, monkeypatch)
    for name in ("one", "two"):
        home = tmp_path / f"{name}-home"
        (home / "models").mkdir(parents=True)
        shutil.copytree(find_model("k2-nano"), home / "models" / "mine")
        text = f'#!/bin/sh\nK2MLX_HOME={home}; export K2MLX_HOME\nexec {sys.executable} "$@"\n'
        write(tmp_path / name / "k2py", text)
    entries = [{"ssh": "one", "ips": ["127.0.0.1"]}, {"ssh": "two", "ips": ["127.0.0.2"]}]
    (tmp_path / "hosts.json").write_text(json.dumps(entries))
    return tmp_path


def check(folder, capsys, *args):
    """The exit code, and what is printed."""
    code = main(["cluster", "check", "--hostfile", str(folder / "hosts.json"), *args])
    done = capsys.readouterr()
    return code, done.out or done.err


def test_two_hosts_that_are_well(hosts, capsys):
    code, out = check(hosts, capsys, "--python", "k2py", "--model", "mine")
    assert code == 0, out
    head, one, two, there, back, *rest = out.splitlines()
    assert head.split()[:3] == ["host", "address", "reachable"]
    for line, name, address in ((one, "one", "127.0.0.1"), (two, "two", "127.0.0.2")):
        assert line.split()[:4] == [name, address, "yes", f"3.{sys.version_info[1]}"]
    assert one.split()[4:6] == two.split()[4:6]
    assert "1 files" in one and "GB" in one
    assert there.startswith("one -> two: round trip ") and back.startswith("two -> one: ")
    assert rest[-1] == "all is well"


def test_differences_and_addresses_of_others_are_told(hosts, capsys):
    weights = next((hosts / "two-home" / "models" / "mine").glob("*.safetensors"))
    with weights.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    entries = [{"ssh": "one", "ips": ["127.0.0.1"]}, {"ssh": "two", "ips": ["192.0.2.77"]}]
    (hosts / "hosts.json").write_text(json.dumps(entries))
    code, out = check(hosts, capsys, "--python", "k2py", "--model", "mine", "--json")
    assert code == 1
    found = json.loads(out)
    assert found["well"] is False
    model, *links = found["problems"]
    assert weights.name in model and "rank 1" in model and "copy or pull" in model
    assert "cannot listen on 192.0.2.77" in links[0] and "cluster init" in links[0]
    assert "two has no address 192.0.2.77" in links[1] and "cluster init" in links[1]
    one, two = (row["model"] for row in found["rows"])
    assert one != two


def test_a_host_that_is_down_and_one_without_k2mlx_or_the_model(hosts, capsys):
    (hosts / "one.down").touch()
    write(hosts / "two" / "k2py", "#!/bin/sh\necho 'No module named k2mlx' >&2; exit 1\n")
    code, out = check(hosts, capsys, "--python", "k2py")
    assert code == 1
    down, bare = (line for line in out.splitlines() if line.startswith("problem: "))
    assert "one: ssh says: ssh: connect to host one: No route to host; try 'ssh one'" in down
    assert "two: k2py cannot run k2mlx there (No module named k2mlx); install" in bare
    assert out.splitlines()[1].split() == ["one", "127.0.0.1", "no"]


def test_a_missing_model_is_told(hosts, capsys):
    shutil.rmtree(hosts / "two-home" / "models" / "mine")
    for weights in (hosts / "one-home" / "models" / "mine").glob("*.safetensors"):
        weights.unlink()
    (hosts / "hosts.json").write_text('[{"ssh": "one", "ips": []}, {"ssh": "two", "ips": []}]')
    code, out = check(hosts, capsys, "--python", "k2py", "--model", "mine")
    assert code == 1
    assert "one: " in out and "holds no weights" in out
    assert "problem: two: mine: " in out
    assert out.count("no address in the host file; 'k2mlx cluster init' finds it") == 2


def test_a_host_file_that_is_none_is_refused(tmp_path, capsys):
    code, out = check(tmp_path, capsys)
    assert code == 2 and "cluster init" in out and out.count("\n") == 1


# --- Macs: written by hand, not recorded on one ---------------------------------------------------


@pytest.mark.parametrize(
    ("state", "block", "told"),
    [
        ("Firewall is disabled. (State = 0)", "Block all DISABLED!", "off"),
        ("Firewall is enabled. (State = 1)", "Block all DISABLED!", "on"),
        (
            "Firewall is enabled. (State = 1)",
            "Firewall has block all state set to disabled.",
            "on",
        ),
        (
            "Firewall is blocking all non-essential incoming connections. (State = 2)",
            "Firewall is set to block all non-essential incoming connections",
            "blocks all",
        ),
        (
            "Firewall is enabled. (State = 1)",
            "Firewall has block all state set to enabled.",
            "blocks all",
        ),
        ("", "", "unknown"),
    ],
)
def test_the_firewalls_words(monkeypatch, tmp_path, state, block, told):
    script = f'case $1 in --getglobalstate) echo "{state}";; *) echo "{block}";; esac'
    write(tmp_path / "bin" / "filter", f"#!/bin/sh\n{script}\n")
    monkeypatch.setattr(visits, "FIREWALL", str(tmp_path / "bin" / "filter"))
    assert visits.firewall() == told


@pytest.mark.parametrize(
    ("status", "found"),
    [("enabled", True), ("disabled", False), (None, None)],
)
def test_rdmas_words(monkeypatch, tmp_path, status, found):
    (tmp_path / "bin").mkdir()
    if status is not None:
        write(tmp_path / "bin" / "rdma_ctl", f"#!/bin/sh\necho {status}\n")
        write(tmp_path / "bin" / "ibv_devices", "#!/bin/sh\necho '  rdma_en2   b4552be000000001'\n")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    devices = [] if status is None else ["rdma_en2"]
    capable = status is not None
    assert visits.rdma() == {"devices": devices, "capable": capable, "enabled": found}


def mac(name, rdma=(), devices=("rdma_en2",), **other):
    facts = {"k2mlx": "1", "mlx": "1", "python": "3.12", "member": {"host": name}}
    facts |= {"description": {}, "weights": {}}
    state = {"devices": list(devices), "capable": True, "enabled": bool(devices)}
    told = {"system": "Darwin", "free": 4e11, "model": None, "error": None, "firewall": "off"}
    host = Host(name, (f"10.0.0.{len(name)}",), tuple(rdma))
    return Visit(host, told | {"facts": facts, "rdma": state} | other)


def judged(*macs, links=(), backend="ring", fit=""):
    return judge(HostFile(tuple(m.host for m in macs), backend), macs, links, fit)


GOOD = [Link("a", "bb", 3e-4, 1e9), Link("bb", "a", 3e-4, 1e9)]


def test_macs_that_are_well():
    report = judged(mac("a", firewall="on"), mac("bb"), links=GOOD)
    assert (report.problems, report.notes) == ([], [])
    assert {row["local network"] for row in report.rows} == {"allowed"}


@pytest.mark.parametrize(
    ("macs", "options", "says"),
    [
        ([mac("a", firewall="blocks all"), mac("bb")], {}, ["a: the firewall blocks all"]),
        (
            [mac("a"), mac("bb", firewall="on")],
            {"links": [Link("a", "bb", error="timed out", name="TimeoutError")]},
            ["the firewall of bb is on: allow python"],
        ),
        (
            [mac("a"), mac("bb")],
            {"links": [Link("a", "bb", error="No route to host", name="EHOSTUNREACH")]},
            ["on a, allow your terminal (or python) under System Settings > Privacy"],
        ),
        (
            [mac("a"), mac("bb")],
            {"links": [Link("a", "bb", error="Connection refused", name="ECONNREFUSED")]},
            ["look at the cable"],
        ),
        (
            [mac("a", devices=()), mac("bb", rdma=("rdma_en5", None))],
            {"backend": "jaccl", "links": GOOD},
            ["a: no RDMA devices, which jaccl needs; start it in recovery", "bb: has no rdma_en5"],
        ),
        (
            [mac("a", rdma=(None, ["rdma_en2", "rdma_en3"])), mac("bb", rdma=("rdma_en2", None))],
            {"backend": "jaccl", "links": GOOD},
            ["a: has no rdma_en3, only rdma_en2"],
        ),
        ([mac("a"), mac("bb")], {"fit": "needs more"}, ["does not fit on these hosts: needs more"]),
    ],
)
def test_each_problem_is_a_line_with_what_to_do(macs, options, says):
    report = judged(*macs, **options)
    assert len(report.problems) == len(says)
    for problem, said in zip(report.problems, says, strict=True):
        assert said in problem and "\n" not in problem
    assert str(report).splitlines()[-1].startswith("problem: ")


@pytest.mark.parametrize("key", ["k2mlx", "mlx", "python"])
def test_the_rank_whose_version_differs_is_named(key):
    macs = [mac("a"), mac("bb"), mac("ccc"), mac("dddd")]
    macs[2].told["facts"][key] = "0.9"
    (problem,) = judged(*macs).problems
    assert problem.startswith("rank 2 (ccc) has ") and "rank 0 (a)" in problem and "0.9" in problem


def test_what_could_be_better_is_no_problem():
    slow = [Link("a", "bb", 5e-3, 1e9), Link("bb", "a", 3e-4, 6e6)]
    report = judged(mac("a", devices=()), mac("bb"), links=slow)
    assert not report.problems
    off, there, back = report.notes
    assert off.startswith("a: RDMA is off; for --backend jaccl start it in recovery mode")
    assert there.startswith("a -> bb is slow") and back.startswith("bb -> a is slow")
