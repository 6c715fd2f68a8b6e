"""Which addresses machines get: by hand-written samples of what the systems print (none was
recorded on a Mac), and properties over random networks."""

import ipaddress
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2mlx.cluster.interfaces import (
    ETHERNET,
    ORDER,
    OTHER,
    SCRIPT,
    THUNDERBOLT,
    VPN,
    WIFI,
    Interface,
    Machine,
    choose,
    parse,
    summary,
)
from k2mlx.cluster.remote import Remote
from k2mlx.cluster.setup import find
from k2mlx.errors import ClusterError, RequestError

MAC = """== system
Darwin
== ifconfig
lo0: flags=8049<UP,LOOPBACK,RUNNING,MULTICAST> mtu 16384
\tinet 127.0.0.1 netmask 0xff000000
en0: flags=8863<UP,BROADCAST,SMART,RUNNING,SIMPLEX,MULTICAST> mtu 1500
\tether aa:bb:cc:00:00:01
\tinet 192.168.1.20 netmask 0xffffff00 broadcast 192.168.1.255
\tmedia: autoselect
\tstatus: active
en1: flags=8863<UP,BROADCAST,SMART,RUNNING,SIMPLEX,MULTICAST> mtu 1500
\tinet 10.1.0.20 netmask 0xffffff00 broadcast 10.1.0.255
\tmedia: autoselect (10Gbase-T <full-duplex>)
\tstatus: active
en4: flags=8863<UP,BROADCAST,SMART,RUNNING,SIMPLEX,MULTICAST> mtu 1500
\tinet 10.2.0.20 netmask 0xffffff00 broadcast 10.2.0.255
\tmedia: autoselect (1000baseT <full-duplex>)
\tstatus: inactive
bridge0: flags=8863<UP,BROADCAST,SMART,RUNNING,SIMPLEX,MULTICAST> mtu 1500
\tinet 169.254.7.20 netmask 0xffff0000 broadcast 169.254.255.255
\tstatus: active
bridge100: flags=8a63<UP,BROADCAST,SMART,RUNNING,ALLMULTI,SIMPLEX,MULTICAST> mtu 1500
\tinet 192.168.64.1 netmask 0xffffff00 broadcast 192.168.64.255
\tstatus: active
utun4: flags=8051<UP,POINTOPOINT,RUNNING,MULTICAST> mtu 1380
\tinet 100.101.5.6 --> 100.101.5.6 netmask 0xffffffff
== ports

Hardware Port: Ethernet
Device: en1
Ethernet Address: aa:bb:cc:00:00:02

Hardware Port: Ethernet Adapter (en4)
Device: en4
Ethernet Address: aa:bb:cc:00:00:03

Hardware Port: Thunderbolt Bridge
Device: bridge0
Ethernet Address: aa:bb:cc:00:00:04

Hardware Port: Wi-Fi
Device: en0
Ethernet Address: aa:bb:cc:00:00:01

VLAN Configurations
===================
== memory
549755813888
== chip
Apple M3 Ultra
"""


def test_a_mac():
    machine = parse(MAC)
    assert machine.interfaces == (
        Interface("lo0", "127.0.0.1/8", OTHER),
        Interface("en0", "192.168.1.20/24", WIFI),
        Interface("en1", "10.1.0.20/24", ETHERNET, 10000),
        Interface("bridge0", "169.254.7.20/16", THUNDERBOLT),
        Interface("bridge100", "192.168.64.1/24", OTHER),
        Interface("utun4", "100.101.5.6/32", VPN),
    )
    assert machine.memory == 512 << 30
    assert machine.chip == "Apple M3 Ultra"
    other = Machine(tuple(_moved(i) for i in machine.interfaces if i.kind != OTHER))
    chosen = choose({"a": machine, "b": other})
    assert {host: one.name for host, one in chosen.items()} == {"a": "bridge0", "b": "bridge0"}
    assert summary(chosen, {"a": machine, "b": other})[0] == (
        "a: 169.254.7.20 (bridge0, Thunderbolt); not 192.168.1.20 (en0, Wi-Fi),"
        " 10.1.0.20 (en1, Ethernet, 10 Gbit/s), 100.101.5.6 (utun4, VPN)"
    )


def _moved(interface):
    ip = ipaddress.IPv4Interface(interface.address)
    return Interface(interface.name, f"{ip.ip + 1}/{ip.network.prefixlen}", interface.kind)


def test_a_linux_machine():
    links = [
        ("lo", ["UP"], "127.0.0.1", 8),
        ("eth0", ["UP"], "10.0.0.5", 24),
        ("eth1", [], "10.3.0.5", 24),
        ("wlp2s0", ["UP"], "192.168.0.5", 24),
        ("tailscale0", ["UP"], "100.90.1.1", 32),
        ("eth9", ["UP"], "100.70.1.1", 24),
        ("docker0", ["UP"], "172.17.0.1", 16),
        ("thunderbolt0", ["UP"], "169.254.3.4", 16),
    ]
    told = [
        {
            "ifname": name,
            "flags": flags,
            "addr_info": [
                {"family": "inet", "local": ip, "prefixlen": size},
                {"family": "inet6", "local": "fe80::1", "prefixlen": 64},
            ],
        }
        for name, flags, ip, size in links
    ]
    text = (
        f"== system\nLinux\n== addr\n{json.dumps(told)}\n== links\nlo cable 0\neth0 cable 25000\n"
    )
    text += "wlp2s0 wireless -1\n== memory\n64000000000\n"
    machine = parse(text)
    assert {i.name: (i.kind, i.speed) for i in machine.interfaces} == {
        "lo": (OTHER, 0),
        "eth0": (ETHERNET, 25000),
        "wlp2s0": (WIFI, 0),
        "tailscale0": (VPN, 0),
        "eth9": (VPN, 0),
        "docker0": (OTHER, 0),
        "thunderbolt0": (THUNDERBOLT, 0),
    }
    assert (machine.memory, machine.chip) == (64000000000, "")


def test_this_machine():
    done = Remote("127.0.0.1").run(["sh", "-c", SCRIPT], timeout=10)
    machine = parse(done.out)
    assert "127.0.0.1/8" in [i.address for i in machine.interfaces]
    assert machine.memory > 1 << 28


@pytest.mark.parametrize(
    "text", ["", "== system\nLinux\n", "== system\nLinux\n== addr\n{\n== links\n"]
)
def test_what_is_no_answer_is_refused(text):
    with pytest.raises(ClusterError, match="its interfaces"):
        parse(text)


kinds = st.sampled_from([*ORDER, VPN, OTHER])


@st.composite
def networks(draw):
    """Machines with interfaces in some of a few subnets, of any kind and speed."""
    count, machines = draw(st.integers(2, 4)), {}
    for m in range(count):
        chosen = draw(st.lists(st.integers(0, 5), unique=True, max_size=6))
        machines[f"h{m}"] = Machine(
            tuple(
                Interface(f"i{s}", f"10.0.{s}.{m + 1}/24", draw(kinds), draw(st.integers(0, 3)))
                for s in chosen
            )
        )
    return machines


@given(networks())
def test_the_best_network_that_all_are_in(machines):
    def worst(network):
        """Of the machines' kinds in a network; None where it does not have them all."""
        places = []
        for machine in machines.values():
            here = [i for i in machine.interfaces if i.network == network and i.kind in ORDER]
            if not here:
                return None
            places.append(min(ORDER.index(i.kind) for i in here))
        return max(places)

    every = {i.network for machine in machines.values() for i in machine.interfaces}
    possible = [w for w in map(worst, every) if w is not None]
    if not possible:
        with pytest.raises(ClusterError, match="VPN is not used"):
            choose(machines)
        return
    chosen = choose(machines)
    assert chosen.keys() == machines.keys()
    assert all(one in machines[host].interfaces for host, one in chosen.items())
    assert len({one.network for one in chosen.values()}) == 1
    assert max(ORDER.index(one.kind) for one in chosen.values()) == min(possible)


def test_init_asks_each_host(ssh):
    """Both are this machine here, so no network has two addresses, but the loopback's would."""
    (ssh / "two.down").touch()
    with pytest.raises(ClusterError, match="No route to host"):
        find(["one", "two"])
    with pytest.raises(RequestError, match="each host once"):
        find(["one", "one"])
    with pytest.raises(ClusterError, match="no network that all hosts are in"):
        find(["one", "three"])
    hostfile, lines = find(["127.0.0.1", "127.0.0.1"])
    assert [host.ips for host in hostfile.hosts] == [("127.0.0.1",)] * 2
    assert lines == ["127.0.0.1: only this machine"]
