"""The lab's network: namespaces, address translation and security groups.

    host ── 198.18.0.2 ─ veth ─ 198.18.0.1 ── flo-core ── slirp4netns ── the real internet
                                                 │ (routes of the public addresses)
                                        flo-vpc-… (one a VPC: router, NAT 1:1, security groups, metadata, DNS)
                                                 │ (a veth a node)
                                              flo-i-… eth0

Nothing is changed in the host's own firewall or forwarding: the way out is slirp4netns, a user-space NAT.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .settings import (
    API_ADDRESS,
    API_PORT,
    AWS_PORT,
    CORE_NETNS,
    DNS_ADDRESS,
    HOST_ADDRESS,
    METADATA_ADDRESS,
    PUBLIC_NETWORK,
    RUN,
    S3_PORT,
    SLIRP_DNS,
)
from .shell import LabError, run

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_vpc_numbers: dict[str, int] = {}
_lock = threading.Lock()


def namespaces() -> list[str]:
    """The lab's network namespaces that exist now."""
    folder = Path("/run/netns")
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("flo-")) if folder.is_dir() else []


@contextmanager
def inside(netns: str) -> Iterator[None]:
    """Run the calling thread inside a network namespace; sockets made there stay there."""
    with Path("/proc/thread-self/ns/net").open("rb") as home, Path(f"/run/netns/{netns}").open("rb") as there:
        _setns(there.fileno())
        try:
            yield
        finally:
            _setns(home.fileno())


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _ip(netns: str | None, *lines: str) -> None:
    place = ["-n", netns] if netns else []
    run("ip", *place, "-batch", "-", stdin="\n".join(lines) + "\n")


def _sysctl(netns: str, **settings: int) -> None:
    with inside(netns):
        for name, value in settings.items():
            Path("/proc/sys", name.replace("__", "/")).write_text(str(value))


def _nft(netns: str, rules: str) -> None:
    done = subprocess.run(["ip", "netns", "exec", netns, "nft", "-f", "-"], input=rules, capture_output=True, text=True)
    if done.returncode != 0:
        raise LabError(f"nftables refused the rules of {netns}: {done.stderr.strip()}\n{rules}")


def _create(netns: str) -> None:
    run("ip", "netns", "add", netns)
    _ip(netns, "link set lo up")
    _sysctl(netns, net__ipv4__ip_forward=1, net__ipv6__conf__all__disable_ipv6=1)


def core_up() -> subprocess.Popen[bytes]:
    """Make the core namespace, its link to the host and its way out.

    Returns:
        The running slirp4netns; the caller keeps it.
    """
    _create(CORE_NETNS)
    run("ip", "link", "add", "flo-host", "type", "veth", "peer", "name", "host", "netns", CORE_NETNS)
    _ip(CORE_NETNS, f"addr add {API_ADDRESS}/24 dev host", "link set host up")
    _ip(
        None,
        f"addr add {HOST_ADDRESS}/24 dev flo-host",
        "link set flo-host up",
        f"route add {PUBLIC_NETWORK} via {API_ADDRESS}",
    )
    ready_read, ready_write = os.pipe()
    slirp = subprocess.Popen(
        ["slirp4netns", "--configure", "--mtu=1500", "--disable-host-loopback", f"--ready-fd={ready_write}",
         "--netns-type=path", f"/run/netns/{CORE_NETNS}", "tap0"],
        pass_fds=[ready_write],
        stdin=subprocess.DEVNULL,
        stdout=(RUN / "slirp4netns.log").open("wb"),
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    os.close(ready_write)
    with os.fdopen(ready_read, "rb") as ready:
        if not ready.read(1):
            raise LabError(f"slirp4netns did not start: see {RUN / 'slirp4netns.log'}")
    _nft(
        CORE_NETNS,
        f"""
table ip way_out {{
  chain forward {{
    type filter hook forward priority filter; policy accept;
    oifname "tap0" ip daddr {{ {PUBLIC_NETWORK}, 198.18.0.0/15 }} reject
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "tap0" masquerade
  }}
}}
""",
    )
    return slirp


def vpc_netns(vpc_id: str) -> str:
    """Name of a VPC's namespace, e.g. `flo-vpc-1a2b3c4d`."""
    return f"flo-vpc-{vpc_id[-8:]}"


# A private address that no instance has answers nobody; without this rule its packets would take the way out.
INSIDE = """
table ip inside {
  set subnets { type ipv4_addr; flags interval; }
  chain forward {
    type filter hook forward priority filter - 1; policy accept;
    oifname "up0" ip daddr @subnets drop
  }
}
"""


def vpc_up(vpc_id: str) -> bool:
    """Make a VPC's router if it isn't there; returns whether it was made now."""
    netns = vpc_netns(vpc_id)
    with _lock:
        if vpc_id in _vpc_numbers:
            return False
        number = next(n for n in range(1, 255) if n not in _vpc_numbers.values())
        _vpc_numbers[vpc_id] = number
    link = f"198.19.{number}"
    try:
        _create(netns)
        run(
            "ip", "-n", CORE_NETNS, "link", "add", f"vpc{number}", "type", "veth", "peer", "name", "up0", "netns", netns
        )
        _ip(CORE_NETNS, f"addr add {link}.1/30 dev vpc{number}", f"link set vpc{number} up")
        _ip(
            netns,
            f"addr add {link}.2/30 dev up0",
            "link set up0 up",
            f"route add default via {link}.1",
            f"addr add {METADATA_ADDRESS}/32 dev lo",
        )
        _nft(netns, INSIDE)
    except LabError:  # the next launch tries again
        vpc_down(vpc_id)
        raise
    return True


def vpc_down(vpc_id: str) -> None:
    """Remove a VPC's router."""
    with _lock:
        if _vpc_numbers.pop(vpc_id, None):
            run("ip", "netns", "del", vpc_netns(vpc_id), check=False)


def _link(instance_id: str) -> str:
    return f"n{instance_id[-12:]}"


def node_netns(instance_id: str) -> str:
    """Name of an instance's own namespace, e.g. `flo-i-0123456789ab`."""
    return f"flo-i-{instance_id[-12:]}"


def node_up(vpc_id: str, instance_id: str, address: str, prefix: int) -> None:
    """Give an instance its namespace and a cable to its VPC's router."""
    vpc, netns, link = vpc_netns(vpc_id), node_netns(instance_id), _link(instance_id)
    if netns in namespaces():
        return
    subnet = ipaddress.ip_network(f"{address}/{prefix}", strict=False)
    run("ip", "netns", "add", netns)
    run("ip", "-n", vpc, "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", netns)
    # The router answers ARP for every address (as a VPC's does), so that all traffic passes its rules.
    _sysctl(vpc, **{f"net__ipv4__conf__{link}__proxy_arp": 1, f"net__ipv4__neigh__{link}__proxy_delay": 0})
    _ip(vpc, f"link set {link} up", f"route replace {address}/32 dev {link}")
    _sysctl(netns, net__ipv6__conf__all__disable_ipv6=1)
    _ip(
        netns,
        "link set lo up",
        f"addr add {address}/{prefix} dev eth0",
        "link set eth0 up",
        f"route add default via {subnet[1]}",
    )
    _nft(vpc, f"add element ip inside subnets {{ {subnet} }}")


def limit(vpc_id: str, instance_id: str, mbit: float) -> None:
    """Let a host receive, and send, no more than so many Mbit/s each; 0: no limit."""
    for netns, device in ((vpc_netns(vpc_id), _link(instance_id)), (node_netns(instance_id), "eth0")):
        run("tc", "-n", netns, "qdisc", "del", "dev", device, "root", check=False)
        if mbit:
            run(
                "tc", "-n", netns, "qdisc", "add", "dev", device, "root", "tbf",
                "rate", f"{mbit:g}mbit", "burst", f"{max(128_000, round(mbit * 1250))}", "latency", "50ms",
            )  # fmt: skip


def node_down(instance_id: str) -> None:
    """Remove an instance's namespace; its cable goes with it."""
    netns = node_netns(instance_id)
    if netns in namespaces():
        run("ip", "netns", "del", netns, check=False)


def all_down() -> None:
    """Remove every namespace of the lab and the link to the host (their rules and routes go with them)."""
    run("ip", "link", "del", "flo-host", check=False)
    for netns in namespaces():
        run("ip", "netns", "del", netns)


# ---------------------------------------------------------------- security groups


@dataclass(frozen=True)
class Rule:
    """One permission: a protocol (`tcp`, `udp`, `icmp`, `-1`), ports, and the other side."""

    protocol: str
    first_port: int | None
    last_port: int | None
    networks: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    s3: bool = False  # the other side is AWS's list of S3's addresses

    def leads_to_aws(self) -> bool:
        """Whether it lets HTTPS to AWS's services pass, as far as its protocol and ports go."""
        ports = self.first_port in (None, -1) or self.first_port <= AWS_PORT <= (self.last_port or 0)
        return self.protocol == "-1" or (self.protocol in ("tcp", "6") and ports)

    def matches(self, side: str) -> list[str]:
        """nftables expressions of the rule; `side` is `saddr` for ingress, `daddr` for egress."""
        if self.protocol in ("tcp", "udp", "6", "17"):
            name = {"6": "tcp", "17": "udp"}.get(self.protocol, self.protocol)
            whole = self.first_port in (None, -1) or (self.first_port == 0 and self.last_port == 65535)
            # One port is no range: nftables before 1.0.3 refuses 22-22.
            last = "" if self.last_port == self.first_port else f"-{self.last_port}"
            ports = f"meta l4proto {name}" if whole else f"{name} dport {self.first_port}{last}"
        elif self.protocol in ("icmp", "1"):
            ports = "meta l4proto icmp"
        else:
            ports = "" if self.protocol == "-1" else f"meta l4proto {self.protocol}"
        others = [f"ip {side} {network}" for network in self.networks if ":" not in network]
        others += [f"ip {side} @{set_name(group)}" for group in self.groups]
        return [f"{other} {ports}".strip() for other in others]


@dataclass
class Port:
    """An instance's place in the network as the rules see it."""

    instance_id: str
    address: str
    public_address: str | None
    groups: list[str]
    ingress: list[Rule] = field(default_factory=list)
    egress: list[Rule] = field(default_factory=list)
    s3_endpoint: bool = False  # its subnet's route table leads to a gateway endpoint for S3

    @property
    def services(self) -> str:
        """What it reaches of AWS's: `all`, `s3`, or nothing."""
        open_ = [rule for rule in self.egress if rule.leads_to_aws()]
        api = ipaddress.ip_address(API_ADDRESS)
        wide = any(api in ipaddress.ip_network(one) for rule in open_ for one in rule.networks if ":" not in one)
        if wide and self.public_address:
            return "all"
        listed = wide or any(rule.s3 for rule in open_)
        return "s3" if listed and (self.s3_endpoint or self.public_address) else ""


def set_name(group_id: str) -> str:
    """The nftables set that holds a security group's members."""
    return group_id.replace("-", "_")


def render(ports: list[Port]) -> str:
    """The whole ruleset of a VPC's router, to be applied in one transaction.

    Args:
        ports: the VPC's instances.
    """
    members: dict[str, set[str]] = {}
    for port in ports:
        for group in port.groups:
            members.setdefault(group, set()).add(port.address)
        for rule in (*port.ingress, *port.egress):
            for group in rule.groups:
                members.setdefault(group, set())
    public = [p for p in ports if p.public_address]
    api = f"ip daddr {API_ADDRESS} tcp dport {API_PORT}"
    only_s3 = [f'"{_link(p.instance_id)}"' for p in ports if p.services == "s3"]

    def elements(items: list[str]) -> str:
        return f"elements = {{ {', '.join(items)} }}" if items else ""

    text = [
        "table ip nat", "delete table ip nat", "table ip nat {",
        f"  map to_private {{ type ipv4_addr : ipv4_addr; {elements([f'{p.public_address} : {p.address}' for p in public])} }}",  # noqa: E501
        f"  map to_public {{ type ipv4_addr : ipv4_addr; {elements([f'{p.address} : {p.public_address}' for p in public])} }}",  # noqa: E501
        "  chain prerouting {",
        "    type nat hook prerouting priority dstnat; policy accept;",
        f"    ip daddr {DNS_ADDRESS} meta l4proto {{ tcp, udp }} th dport 53 dnat to {SLIRP_DNS}",
        # From inside, too, a public address is reached by way of the outside, and with one's own public address.
        '    iifname "up0" dnat to ip daddr map @to_private',
        f"    iifname {{ {', '.join(only_s3)} }} {api} dnat to {API_ADDRESS}:{S3_PORT}" if only_s3 else "",
        "  }",
        "  chain postrouting {",
        "    type nat hook postrouting priority srcnat; policy accept;",
        '    oifname "up0" snat to ip saddr map @to_public',
        '    oifname "up0" masquerade',
        "  }",
        "}",
        "table ip groups", "delete table ip groups", "table ip groups {",
    ]  # fmt: skip
    for group, addresses in sorted(members.items()):
        text.append(f"  set {set_name(group)} {{ type ipv4_addr; {elements(sorted(addresses))} }}")
    for port in ports:
        link = _link(port.instance_id)
        text.append(f"  chain from_{link} {{")
        text.append(f"    ip daddr {SLIRP_DNS} th dport 53 return")
        if port.services:
            text.append(
                f"    ip daddr {API_ADDRESS} tcp dport {API_PORT if port.services == 'all' else S3_PORT} accept"
            )
        text.append(f"    ip daddr {API_ADDRESS} tcp dport {{ {API_PORT}, {S3_PORT} }} drop")
        if not port.public_address:
            text.append('    oifname "up0" drop')
        text += [f"    {match} return" for rule in port.egress for match in rule.matches("daddr")]
        text += ["    drop", "  }", f"  chain to_{link} {{"]
        text += [f"    {match} accept" for rule in port.ingress for match in rule.matches("saddr")]
        text += ["    drop", "  }"]
    sources = ", ".join(f'"{_link(p.instance_id)}" : goto from_{_link(p.instance_id)}' for p in ports)
    targets = ", ".join(f'"{_link(p.instance_id)}" : goto to_{_link(p.instance_id)}' for p in ports)
    text += ["  chain leave {", f"    iifname vmap {{ {sources} }}" if sources else "", "    drop", "  }"]
    text += ["  chain arrive {", f"    oifname vmap {{ {targets} }}" if targets else "", "    drop", "  }"]
    text += [
        "  chain spoofed {",
        "    type filter hook prerouting priority raw; policy accept;",
        *[f'    iifname "{_link(p.instance_id)}" ip saddr != {p.address} drop' for p in ports],
        "  }",
        "  chain forward {",
        "    type filter hook forward priority filter; policy drop;",
        "    ct state established,related accept",
        '    iifname != "up0" jump leave',
        '    oifname "up0" accept',
        "    goto arrive",
        "  }",
        "  chain input {",
        "    type filter hook input priority filter; policy drop;",
        "    ct state established,related accept",
        f"    ip daddr {METADATA_ADDRESS} tcp dport 80 accept",
        "    icmp type echo-request accept",
        "  }",
        "}",
    ]
    return "\n".join(line for line in text if line) + "\n"


def apply(vpc_id: str, ports: list[Port], rules: str) -> None:
    """Put a VPC's rules (made by `render`) and the routes of its public addresses into force, all at once.

    Raises:
        LabError: nftables refused them; the old rules are still in force.
    """
    _nft(vpc_netns(vpc_id), rules)
    number = _vpc_numbers[vpc_id]
    routes = run("ip", "-n", CORE_NETNS, "route", "show", "dev", f"vpc{number}")
    have = {line.split()[0] for line in routes.splitlines() if "via" in line}
    want = {p.public_address for p in ports if p.public_address}
    lines = [f"route replace {a}/32 via 198.19.{number}.2 dev vpc{number}" for a in sorted(want - have)]
    lines += [f"route del {a}/32" for a in sorted(have - want)]
    if lines:
        _ip(CORE_NETNS, *lines)
