"""`k2mlx cluster init`, with an ssh that reaches two Mac Studios as they would be."""

import json

import pytest
from mlx._distributed_utils.common import Hostfile

from k2mlx.cli import main
from k2mlx.plan.machines import read_hosts
from tests.cluster.macs import place_mac, place_ssh


@pytest.fixture
def studios(tmp_path, monkeypatch):
    place_ssh(tmp_path, monkeypatch)
    for name in ("studio1", "studio2"):
        place_mac(tmp_path, name)
    return tmp_path


def init(folder, *args):
    return main(["cluster", "init", "studio1", "studio2", "--out", str(folder / "h.json"), *args])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # mlx leaves it open
def test_the_thunderbolt_bridge_is_taken_and_the_choice_explained(studios, capsys):
    assert init(studios) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == (
        "studio1: bridge0 169.254.17.201 (Thunderbolt) in 169.254.0.0/16, common to all; not en0"
        " 192.168.1.11 (Ethernet, 10 Gbit/s), en1 192.168.1.111 (Wi-Fi), bridge100 192.168.64.1"
        " (VPN or virtual), utun4 100.101.7.1 (VPN or virtual); M3 Ultra, 512GB"
    )
    assert out[1].startswith("studio2: bridge0 169.254.17.202 (Thunderbolt)")
    assert "k2mlx cluster check" in out[2]
    theirs = Hostfile.from_file(studios / "h.json")
    assert [(h.ssh_hostname, h.ips, h.rdma) for h in theirs.hosts] == [
        ("studio1", ["169.254.17.201"], []),
        ("studio2", ["169.254.17.202"], []),
    ]
    assert theirs.backend == "ring"
    machines = read_hosts(studios / "h.json")
    assert [(m.memory, m.chip and m.chip.name) for m in machines] == [(512 * 2**30, "M3 Ultra")] * 2


def test_without_thunderbolt_on_one_the_ethernet_is_taken(studios, capsys):
    place_mac(studios, "studio2", ifconfig="sed '/^bridge0/,/status/d' {samples}/ifconfig")
    assert init(studios) == 0
    hosts = json.loads((studios / "h.json").read_text())["hosts"]
    assert [host["ips"] for host in hosts] == [["192.168.1.11"], ["192.168.1.12"]]


def test_a_vpn_alone_is_refused_with_what_there_is(studios, capsys):
    place_mac(studios, "studio2", ifconfig="sed -n '/^utun4/,$p' {samples}/ifconfig")
    assert init(studios) == 2
    said = capsys.readouterr().err
    assert "studio1 has" in said and "studio2 has none" in said and said.count("\n") == 1
    assert not (studios / "h.json").exists()


def test_jaccl_gets_the_device_of_each_cable(studios, capsys):
    assert init(studios, "--backend", "jaccl") == 0
    content = json.loads((studios / "h.json").read_text())
    assert content["backend"] == "jaccl"
    assert [h["rdma"] for h in content["hosts"]] == [[None, "rdma_en2"], ["rdma_en2", None]]


@pytest.mark.parametrize(
    ("programs", "says"),
    [
        ({"ibv_devices": "exit 1"}, "rdma_ctl enable"),
        ({"system_profiler": "echo '{{}}'".replace("{{}}", "{}")}, "no Thunderbolt cable"),
    ],
)
def test_jaccl_without_its_hardware_is_refused(studios, capsys, programs, says):
    place_mac(studios, "studio2", **programs)
    assert init(studios, "--backend", "jaccl") == 2
    said = capsys.readouterr().err
    assert says in said and "studio2" in said and said.count("\n") == 1


def test_another_file_is_replaced_only_by_force(studios, capsys):
    (studios / "h.json").write_text("mine")
    assert init(studios) == 2
    assert "--force" in capsys.readouterr().err
    assert (studios / "h.json").read_text() == "mine"
    assert init(studios, "--force") == 0
    assert init(studios) == 0  # it says the same
    (studios / "h.json").write_bytes(b"\xff\xfe")  # no text at all
    assert init(studios) == 2
    assert (studios / "h.json").read_bytes() == b"\xff\xfe"
    capsys.readouterr()
    assert main(["cluster", "init", "studio1", "studio2", "--out", str(studios)]) == 2
    assert "is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("said", ["oops", "[1]", '{"SPThunderboltDataType": [1]}'])
def test_cables_that_cannot_be_read_are_in_the_way_of_jaccl_alone(studios, capsys, said):
    place_mac(studios, "studio2", system_profiler=f"echo '{said}'")
    assert init(studios) == 0
    capsys.readouterr()
    assert init(studios, "--backend", "jaccl", "--force") == 2
    error = capsys.readouterr().err
    assert error.startswith("k2mlx: studio2: cannot read its Thunderbolt") and "ring" in error
    assert json.loads((studios / "h.json").read_text())["backend"] == "ring"


@pytest.mark.parametrize(
    ("programs", "says"),
    [
        ({"ifconfig": "echo broken >&2"}, "no subnet"),
        ({"uname": "echo Linux", "ip": "echo 'ip: no such option' >&2"}, "ip: no such option"),
    ],
)
def test_a_host_that_tells_no_addresses_is_named(studios, capsys, programs, says):
    place_mac(studios, "studio2", **programs)
    assert init(studios) == 2
    said = capsys.readouterr().err
    assert says in said and "studio2" in said and said.count("\n") == 1


def test_a_host_that_is_down_and_hosts_that_are_none(studios, capsys):
    (studios / "studio2.down").touch()
    assert init(studios) == 2
    assert "No route to host" in capsys.readouterr().err
    for hosts in (["studio1"], ["studio1", "studio1"], ["studio1", "-oProxyCommand=x"]):
        with pytest.raises(SystemExit) if hosts[-1][0] == "-" else pytest.MonkeyPatch.context():
            assert main(["cluster", "init", *hosts]) == 2
    assert "two or more different" in capsys.readouterr().err
