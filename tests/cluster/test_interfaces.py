"""Which addresses are chosen, from random ones and from what commands print."""

import json
import os
import re
import shutil
import subprocess
from ipaddress import IPv4Interface, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2mlx.cluster.interfaces import (
    SHARED,
    Interface,
    Kind,
    choose,
    devices,
    from_linux,
    from_mac,
    reason,
)
from k2mlx.cluster.survey import survey
from k2mlx.errors import ClusterError
from tests.cluster.macs import SAMPLES

NETWORKS = ["10.0.0.0/24", "10.0.0.0/16", "192.168.1.0/24", "169.254.0.0/16", "172.17.0.0/16"]


@st.composite
def interfaces(draw):
    network = IPv4Network(draw(st.sampled_from(NETWORKS)))
    kind = draw(st.sampled_from(Kind))
    address = IPv4Interface(f"{network[draw(st.integers(1, 6))]}/{network.prefixlen}")
    name = f"{kind.name.lower()}{draw(st.integers(0, 3))}"
    return Interface(name, kind, address, draw(st.sampled_from([None, 100, 1000, 10000])))


hosts = st.lists(st.lists(interfaces(), max_size=6), min_size=2, max_size=4).map(
    lambda each: {f"host{i}": found for i, found in enumerate(each)}
)


def reachable(found, network, worst):
    """A host's addresses in a network over interfaces that are at least so good."""
    return {i.address.ip for i in found if i.address.network == network and i.kind <= worst}


@given(hosts)
def test_the_chosen_are_different_addresses_of_one_subnet_and_no_vpn(hosts):
    try:
        chosen = choose(hosts)
    except ClusterError:
        return
    assert list(chosen) == list(hosts)
    assert len({i.address.network for i in chosen.values()}) == 1
    assert len({i.address.ip for i in chosen.values()}) == len(hosts)
    for host, interface in chosen.items():
        assert interface in hosts[host] and interface.kind != Kind.VIRTUAL


@given(hosts, st.sampled_from(NETWORKS), st.sampled_from([Kind.THUNDERBOLT, Kind.ETHERNET]))
def test_no_wifi_where_cables_join_all_and_a_vpn_alone_is_refused(hosts, cabled, kind):
    network = IPv4Network(cabled)
    for i, found in enumerate(hosts.values()):  # addresses that no random one has
        address = IPv4Interface(f"{network[100 + i]}/{network.prefixlen}")
        # Alone of its kind in that subnet, so that it is the one to take there.
        found[:] = [x for x in found if x.address.network != network or x.kind > kind]
        found.append(Interface("cable", kind, address))
    chosen = choose(hosts)
    assert max(i.kind for i in chosen.values()) <= kind
    for interface in chosen.values():
        assert interface.kind != Kind.VIRTUAL


@given(hosts)
def test_a_refusal_means_that_no_subnet_joins_them(hosts):
    """By another search: whatever single address a host has in a subnet, they must not differ."""
    try:
        choose(hosts)
    except ClusterError as error:
        assert all(host in str(error) for host in hosts)
        for network in map(IPv4Network, NETWORKS):
            each = [reachable(found, network, Kind.WIFI) for found in hosts.values()]
            if all(len(addresses) == 1 for addresses in each):
                assert len(set.union(*each)) < len(hosts)


def test_a_faster_cable_of_one_kind_goes_first_and_link_local_last():
    def host(last):
        return [
            Interface("slow", Kind.ETHERNET, IPv4Interface(f"10.0.0.{last}/24"), 1000),
            Interface("fast", Kind.ETHERNET, IPv4Interface(f"10.1.0.{last}/24"), 10000),
            Interface("same", Kind.ETHERNET, IPv4Interface(f"169.254.0.{last}/16"), 10000),
        ]

    chosen = choose({"a": host(1), "b": host(2)})
    assert {i.name for i in chosen.values()} == {"fast"}
    assert reason(chosen["a"], host(1)) == (
        "fast 10.1.0.1 (Ethernet, 10 Gbit/s) in 10.1.0.0/24, common to all; not same 169.254.0.1"
        " (Ethernet, 10 Gbit/s), slow 10.0.0.1 (Ethernet, 1 Gbit/s)"
    )


@given(
    st.permutations([Kind.THUNDERBOLT, Kind.ETHERNET, Kind.ETHERNET]),
    st.lists(st.sampled_from([None, 1000, 10000]), min_size=6, max_size=6),
)
def test_link_local_addresses_of_different_kinds_are_no_cable(kinds, speeds):
    """A Thunderbolt port and an Ethernet port that gave themselves an address each."""
    hosts = {
        f"host{i}": [
            Interface("own", kind, IPv4Interface(f"169.254.0.{i + 1}/16"), speeds[i]),
            Interface("given", Kind.ETHERNET, IPv4Interface(f"10.0.0.{i + 1}/24"), speeds[i + 3]),
        ]
        for i, kind in enumerate(kinds)
    }
    assert {i.name for i in choose(hosts).values()} == {"given"}
    alone = {host: found[:1] for host, found in hosts.items()}
    assert {i.name for i in choose(alone).values()} == {"own"}  # check will tell


# --- What commands print --------------------------------------------------------------------------


def sample(name):
    return (SAMPLES / "studio1" / name).read_text()


def test_macs_interfaces_are_read():
    found = {i.name: i for i in from_mac(sample("ifconfig"), sample("networksetup"))}
    assert {name: i.kind for name, i in found.items()} == {
        "lo0": Kind.VIRTUAL,
        "en0": Kind.ETHERNET,
        "en1": Kind.WIFI,
        "bridge0": Kind.THUNDERBOLT,
        "bridge100": Kind.VIRTUAL,
        "utun4": Kind.VIRTUAL,
    }
    assert found["en0"].address == IPv4Interface("192.168.1.11/24")
    assert (found["en0"].speed, found["bridge0"].speed) == (10000, None)
    assert found["bridge0"].address == IPv4Interface("169.254.17.201/16")
    assert devices(sample("networksetup"))["Thunderbolt 2"] == "en3"


@pytest.mark.parametrize(
    ("port", "kind"),
    [
        ("Thunderbolt Bridge", Kind.THUNDERBOLT),
        ("Thunderbolt 4", Kind.THUNDERBOLT),
        ("Thunderbolt Ethernet Slot 1", Kind.ETHERNET),
        ("Ethernet Adapter (en4)", Kind.ETHERNET),
        ("USB 10/100/1000 LAN", Kind.ETHERNET),
        ("Wi-Fi", Kind.WIFI),
        ("iPhone USB", Kind.VIRTUAL),
        ("Bluetooth PAN", Kind.VIRTUAL),
    ],
)
@pytest.mark.parametrize(
    ("media", "speed"),
    [("1000baseT <full-duplex>", 1000), ("2500Base-T", 2500), ("2.5Gbase-T", 2500), ("none", None)],
)
def test_macs_ports_are_told_apart_by_their_names(port, kind, media, speed):
    ifconfig = (
        "en7: flags=8863<UP,BROADCAST,RUNNING> mtu 1500\n\tinet 10.0.0.5 netmask 0xfffffffc\n"
        f"\tmedia: autoselect ({media})\n\tstatus: active\n"
    )
    (found,) = from_mac(ifconfig, f"\nHardware Port: {port}\nDevice: en7\nEthernet Address: x\n")
    assert found == Interface("en7", kind, IPv4Interface("10.0.0.5/30"), speed)
    inactive = ifconfig.replace("active", "inactive")
    assert from_mac(inactive, f"\nHardware Port: {port}\nDevice: en7\n") == []


def link(name, address, link_type="ether", flags=("UP", "LOWER_UP"), **more):
    local, prefix = address.split("/")
    entry = {"family": "inet", "local": local, "prefixlen": int(prefix)}
    return {
        "ifname": name,
        "flags": list(flags),
        "link_type": link_type,
        "operstate": "UP",
        "addr_info": [entry, {"family": "inet6", "local": "fe80::1", "prefixlen": 64}],
    } | more


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (link("eth0", "10.0.0.1/24"), Kind.ETHERNET),
        (link("enp3s0f1", "10.0.0.1/24"), Kind.ETHERNET),
        (link("br0", "10.0.0.1/24"), Kind.ETHERNET),
        (link("thunderbolt0", "10.0.0.1/24"), Kind.THUNDERBOLT),
        (link("wlp2s0", "10.0.0.1/24"), Kind.WIFI),
        (link("radio", "10.0.0.1/24"), Kind.WIFI),
        (link("lo", "127.0.0.1/8", "loopback"), Kind.VIRTUAL),
        (link("eth0", "100.64.3.1/24"), Kind.VIRTUAL),
        (link("tailscale0", "100.64.3.1/32", "none"), Kind.VIRTUAL),
        (link("wg0", "10.6.0.1/24", "none"), Kind.VIRTUAL),
        (link("office", "10.6.0.1/24", "none"), Kind.VIRTUAL),
        (link("tun0", "10.8.0.6/24", "none", ("UP", "POINTOPOINT")), Kind.VIRTUAL),
        (link("ztabcdefgh", "10.147.17.1/24"), Kind.VIRTUAL),
        (link("office2", "10.8.0.6/24", linkinfo={"info_kind": "tun"}), Kind.VIRTUAL),
        (link("edge", "10.9.0.6/24", linkinfo={"info_kind": "vxlan"}), Kind.VIRTUAL),
        (link("eth1", "10.0.0.1/24", linkinfo={"info_kind": "veth"}), Kind.ETHERNET),
        (link("eth0.7", "10.0.0.1/24", linkinfo={"info_kind": "vlan"}), Kind.ETHERNET),
        (link("docker0", "172.17.0.1/16"), Kind.VIRTUAL),
        (link("br-1f00aa12bc34", "172.18.0.1/16"), Kind.VIRTUAL),
        (link("virbr0", "192.168.122.1/24"), Kind.VIRTUAL),
    ],
    ids=lambda value: value["ifname"] if isinstance(value, dict) else value.name,
)
def test_linux_interfaces_are_read(made, kind):
    (found,) = from_linux(json.dumps([made]), "eth0 10000\nbr0 -1\nlo \n", "radio\n*\n")
    assert found.kind == kind
    assert found.speed == (10000 if made["ifname"] == "eth0" else None)
    assert from_linux(json.dumps([made | {"operstate": "DOWN"}])) == []
    assert from_linux(json.dumps([made | {"flags": ["BROADCAST"]}])) == []


def test_what_this_machine_says_is_read():
    if shutil.which("ip") is None:
        pytest.skip("no ip (package iproute2)")
    found = survey("127.0.0.1")
    addresses = {str(i.address.ip): i.kind for i in found.interfaces}
    assert addresses.pop("127.0.0.1") == Kind.VIRTUAL
    links = json.loads(subprocess.check_output(["ip", "-j", "link"]))
    plain = {x["ifname"] for x in links if re.fullmatch(r"(eth|en[ops])\d\w*", x["ifname"])}
    assert all(
        (i.kind == Kind.ETHERNET) or i.address.ip in SHARED
        for i in found.interfaces
        if i.name in plain
    )
    assert found.memory == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@given(st.integers(0, SHARED.num_addresses - 1), st.sampled_from(["eth0", "thunderbolt0"]))
def test_addresses_that_tailscale_gives_are_never_taken(number, name):
    (found,) = from_linux(json.dumps([link(name, f"{SHARED[number]}/32")]))
    with pytest.raises(ClusterError):
        choose({"a": [found], "b": [found]})
