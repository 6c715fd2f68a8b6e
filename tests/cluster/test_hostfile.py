"""Host files: what mlx writes is read, what we write mlx reads, and what is none is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx._distributed_utils.common import Hostfile

from k2mlx.cluster.hostfile import Host, HostFile, read_hostfile, write_hostfile
from k2mlx.cluster.remote import Remote, Unreachable
from k2mlx.errors import ConfigError

names = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True)
hosts = st.lists(
    st.builds(
        Host,
        ssh=names,
        ips=st.lists(st.ip_addresses(v=4).map(str), max_size=3).map(tuple),
        memory=st.sampled_from(["", "512GB"]),
        chip=st.sampled_from(["", "M3 Ultra"]),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda host: host.ssh,
)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # mlx leaves it open
@given(hosts, st.sampled_from(["ring", "jaccl"]), st.data())
def test_what_is_written_is_read_by_us_and_by_mlx(tmp_path_factory, hosts, backend, data):
    path = tmp_path_factory.mktemp("hosts") / "hosts.json"
    devices = [tuple(None if a is b else f"rdma_{b.ssh}" for b in hosts) for a in hosts]
    wired = [Host(h.ssh, h.ips, d, h.memory, h.chip) for h, d in zip(hosts, devices, strict=True)]
    whole = HostFile(tuple(wired), backend, ("A=b c",))
    write_hostfile(path, whole)
    assert read_hostfile(path) == whole
    theirs = Hostfile.from_file(path)
    assert [(h.ssh_hostname, tuple(h.ips), tuple(h.rdma)) for h in theirs.hosts] == [
        (h.ssh, h.ips, h.rdma) for h in wired
    ]
    assert (theirs.backend, theirs.envs) == (backend, ["A=b c"])
    kept = data.draw(st.lists(st.sampled_from(wired), min_size=1, unique=True))
    for host in whole.only(kept).hosts:
        others = [None if h.ssh == host.ssh else f"rdma_{h.ssh}" for h in kept]
        assert list(host.rdma) == others


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[]", "no hosts"),
        ('{"hosts": 3}', "no hosts"),
        ('[{"ips": []}]', '"ssh": None'),
        ('[{"ssh": "-oProxyCommand=x"}]', "wanted a name"),
        ('[{"ssh": "a b"}]', "wanted a name"),
        ('[{"ssh": "a", "ips": [1]}]', "addresses"),
        ('{"backend": "mpi", "hosts": [{"ssh": "a"}]}', "mpi"),
        ('{"envs": {}, "hosts": [{"ssh": "a"}], "backend": "ring"}', None),
        ('{"envs": [1], "hosts": [{"ssh": "a"}]}', "envs"),
    ],
)
def test_what_is_no_host_file_is_refused(tmp_path, text, says):
    path = tmp_path / "hosts.json"
    path.write_text(text)
    if says is None:
        assert read_hostfile(path).envs == ()
        return
    with pytest.raises(ConfigError, match=says):
        read_hostfile(path)


def test_another_host_file_is_not_overwritten(tmp_path):
    path, one, two = tmp_path / "hosts.json", HostFile((Host("a"),)), HostFile((Host("b"),))
    write_hostfile(path, one)
    write_hostfile(path, one)
    with pytest.raises(ConfigError, match="--force"):
        write_hostfile(path, two)
    assert read_hostfile(path) == one
    write_hostfile(path, two, force=True)
    assert json.loads(path.read_text())["hosts"][0]["ssh"] == "b"


def test_a_missing_file_says_what_writes_one(tmp_path):
    with pytest.raises(ConfigError, match="k2mlx cluster init"):
        read_hostfile(tmp_path / "hosts.json")


def test_commands_reach_a_host_word_by_word(tmp_path, monkeypatch):
    """Quoted for the shell that ssh starts there."""
    (tmp_path / "ssh").write_text('#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n')
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    words = ["a b", "$HOME", "`id`", "'", '"', "*", ";"]
    for host in ("127.0.0.1", "far"):
        done = Remote(host).run(["printf", "%s\n", *words], timeout=10)
        assert done.out.splitlines() == words
        assert Remote(host).run(["cat"], timeout=10, text="hello").out == "hello"
        assert Remote(host).run(["sh", "-c", "exit 3"], timeout=10).code == 3
        with pytest.raises(Unreachable, match="no answer"):
            Remote(host).run(["sleep", "5"], timeout=0.2)


@pytest.mark.parametrize("name", ["-oProxyCommand=touch", "a b", "", "a;b", "a\nb"])
def test_what_ssh_would_take_for_something_else_is_no_host(name):
    with pytest.raises(ConfigError):
        Remote(name)
