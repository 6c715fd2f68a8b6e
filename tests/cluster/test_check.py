"""`k2mlx cluster check` of hosts that are this machine, some of them made to be wrong."""

import json
import shutil
import sys

import pytest

from k2mlx.cli import main
from k2mlx.cluster.check import check, table
from k2mlx.cluster.hostfile import Host, HostFile, write_hostfile
from k2mlx.home import find_model

pytestmark = pytest.mark.usefixtures("ssh")
NANO = "models/k2-nano"


def hosts(*names, ips=("127.0.0.1", "127.0.0.2", "127.0.0.3")):
    return HostFile(tuple(Host(name, (ip,)) for name, ip in zip(names, ips, strict=False)))


def test_two_good_hosts(ssh, capsys):
    path = ssh / "hosts.json"
    write_hostfile(path, hosts("one", "two"))
    assert main(["cluster", "check", "--hostfile", str(path), "--model", NANO]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["rank", "host", "address", "python"]
    assert all(word in lines[1] for word in ("one", "127.0.0.1", "present", "ms", "Gbit/s"))
    assert main(["cluster", "check", "--hostfile", str(path), "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["host"] for one in told] == ["one", "two"]
    assert all(0 < one["right"]["round_trip"] < 0.1 for one in told)
    assert all(one["right"]["bandwidth"] > 1e7 for one in told)


def problems(hostfile, model=None, python=sys.executable):
    visits = check(hostfile, python, model)
    assert len(table(visits)) == 1 + len(visits)
    return [problem for visit in visits for problem in visit.problems]


def test_a_host_that_is_down(ssh):
    (ssh / "two.down").touch()
    (found,) = problems(hosts("one", "two", "three"))
    assert found.startswith("two: ssh says: connect to host two: No route to host")


def test_another_python(ssh):
    (found, again) = problems(hosts("one", "two"), python="/no/such/python")
    assert found.startswith("one: /no/such/python has no k2mlx there")
    assert again.startswith("two: ")


def test_a_model_that_is_missing_or_another(ssh, tmp_path):
    for name in ("one", "two"):
        home = tmp_path / f"home-{name}"
        shutil.copytree(find_model(NANO), home / "models" / "mine")
        (ssh / f"{name}.env").write_text(f"export K2MLX_HOME={home}\n")
    assert problems(hosts("one", "two"), "mine") == []
    config = tmp_path / "home-two" / "models" / "mine" / "config.json"
    config.write_text(config.read_text() + " ")
    (found,) = problems(hosts("one", "two"), "mine")
    assert "config.json: got" in found
    shutil.rmtree(config.parent)
    (found,) = problems(hosts("one", "two"), "mine")
    assert found.startswith("two: mine: no such folder")


def test_an_address_that_is_not_the_hosts_own(ssh):
    found = problems(hosts("one", "two", ips=("127.0.0.1", "192.0.2.7")))
    assert found == ["two: cannot listen on 192.0.2.7; is it its own?"] or found == [
        "one: does not reach two at 192.0.2.7 (two: cannot listen on 192.0.2.7; is it its own?);"
        " is a firewall in between?"
    ]


def test_a_host_file_without_addresses(ssh):
    found = problems(HostFile((Host("one"), Host("two"))))
    assert found == [
        f"{name}: the host file has no address; run 'k2mlx cluster init'" for name in ("one", "two")
    ]
