# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""A fleet's network: which addresses may use SSH, in which zones hosts may be, and which subnet a zone gets."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import TypedDict

from ansible_collections.flotilla.kit.plugins.module_utils import untyped

LAST_SPLIT = 24  # the smallest network that is split among the zones: an eighth of a /24 holds 27 hosts
# The widest networks that may use SSH, by IP version: a /16 is a large university's, wider ones are providers'
# (3.0.0.0/8 is Amazon's own); an IPv6 /32 is a provider's, of which a customer gets a /48. Private ones aren't judged.
WIDEST = {4: 16, 6: 32}
PRIVATE = [ipaddress.ip_network(one) for one in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")]
# What may bind a fleet to a zone, how that is said, and what to do for another one.
BOUND = {
    "subnet": ("where fleet_subnet_id is", "take a subnet in"),
    "instances": ("where the fleet's instances are", "destroy the fleet first, for one in"),
    "zone": ("which is fleet_zone", "set that to"),
}


class Zone(TypedDict):
    """An availability zone that the fleet may be in."""

    name: str  # such as us-east-1a
    cidr: str  # of its subnet in the fleet's own VPC; empty in an existing one


def check_sources(sources: Sequence[object], open_to_world: bool) -> list[str]:
    """Addresses that may use SSH; what is wider than one organisation's network (WIDEST) is the world."""
    problems = []
    for source in sources:
        try:
            network = ipaddress.ip_network(str(source).strip(), strict=False)
        except ValueError:
            problems.append(f"fleet_ssh_sources has '{source}': give addresses or networks such as 203.0.113.7/32.")
            continue
        private = any(network.version == own.version and network.subnet_of(own) for own in PRIVATE)  # type: ignore[arg-type]
        if network.prefixlen < WIDEST[network.version] and not private and not open_to_world:
            problems.append(
                f"fleet_ssh_sources has {source}, which opens SSH to the world: name your own address, a network of "
                f"/{WIDEST[network.version]} at most, or set fleet_ssh_open_to_world: true if you mean it."
            )
    return problems


def check_ip_versions(sources: Sequence[object]) -> list[str]:
    """Hosts are called by their IPv4 addresses, which nobody reaches from an IPv6 one."""
    if not sources or any(ipaddress.ip_network(one).version == 4 for one in cidrs(sources)):
        return []
    return [
        f"fleet_ssh_sources has IPv6 only ({', '.join(map(str, sources))}), and hosts have IPv4 addresses: add the "
        "IPv4 address that SSH comes from."
    ]


def cidrs(sources: Sequence[object]) -> list[str]:
    """Return sources in CIDR form, without doubles."""
    return list(dict.fromkeys(str(ipaddress.ip_network(str(source).strip(), strict=False)) for source in sources))


def check_network(vpc_id: str, subnet_id: str, cidr: str, hosts: int) -> list[str]:
    """Either an existing VPC with a subnet of it, or a CIDR with room for the hosts."""
    if bool(vpc_id) != bool(subnet_id):
        given, missing = ("fleet_vpc_id", "fleet_subnet_id") if vpc_id else ("fleet_subnet_id", "fleet_vpc_id")
        return [f"{given} is set but {missing} isn't: set both to use an existing network, or neither for an own one."]
    if vpc_id:
        return []
    try:
        network = ipaddress.ip_network(cidr)
    except ValueError:
        return [f"fleet_vpc_cidr '{cidr}' isn't a network: give one such as 10.77.0.0/16."]
    if network.version != 4 or not 16 <= network.prefixlen <= 28:
        return [f"fleet_vpc_cidr {cidr} can't be a VPC: take an IPv4 network from /16 to /28."]
    if network.is_loopback or network.is_link_local or network.is_multicast or network.is_reserved:
        return [f"fleet_vpc_cidr {cidr} can't be a VPC, as AWS keeps that network: take one such as 10.77.0.0/16."]
    part = zone_part(cidr, "a")
    room = ipaddress.ip_network(part).num_addresses - 5  # AWS keeps five of every subnet
    if room < hosts:
        where = cidr if part == cidr else f"{cidr}, of which a zone gets an eighth,"
        return [f"fleet_vpc_cidr {where} has {room} addresses for {hosts} hosts: take a larger network."]
    return []


def zone_part(cidr: str, zone: str) -> str:
    """Return the part of a fleet's own network that a zone gets, by its letter; empty where there is none.

    It depends on nothing else, so that it never changes. A network too small to be split is one zone's.
    """
    network = ipaddress.ip_network(cidr)
    if network.prefixlen > LAST_SPLIT:
        return cidr
    index = "abcdefgh".find(zone[-1])
    return str(list(network.subnets(3))[index]) if index >= 0 else ""


def check_zone(zone: str, region: str) -> list[str]:
    """A zone's name is its region's and a letter; Local Zones have not all that a fleet needs."""
    if not zone or re.fullmatch(re.escape(region) + "[a-z]", zone):
        return []
    return [f"fleet_zone '{zone}' isn't a zone of {region}: set it to one such as {region}a, or leave it empty."]


def check_addresses(public: bool, vpc_id: str, sources: Sequence[object]) -> list[str]:
    """Hosts without public addresses need a network with other ways in and out, and a known way to them."""
    if public or (vpc_id and sources):
        return []
    if not vpc_id:
        return [
            "fleet_public_addresses is false, but the fleet's own VPC has no other way out: "
            "set fleet_vpc_id and fleet_subnet_id to a network with one, or fleet_public_addresses to true."
        ]
    return [
        "fleet_public_addresses is false, so SSH doesn't come from this machine's address on the internet: "
        "set fleet_ssh_sources to the network that it comes from."
    ]


def pick_zones(
    types: set[str], offers: list[untyped.Answer], bound: tuple[str, str] = ("", ""), first: tuple[str, ...] = ()
) -> tuple[list[str], list[str]]:
    """Return the zones that offer all types, best first: those of ``first``, then in the order of their names.

    ``bound`` is a key of BOUND and the only zone that may be taken.
    """
    zones: dict[str, set[str]] = {}
    for offer in offers:
        zones.setdefault(offer["Location"], set()).add(offer["InstanceType"])
    full = sorted(zone for zone, offered in zones.items() if types <= offered)
    full.sort(key=lambda zone: zone not in first)
    why, only = bound
    if only in full:
        return [only], []
    if only:
        missing = ", ".join(sorted(types - zones.get(only, set())))
        said, remedy = BOUND[why]
        elsewhere = f"{remedy} {' or '.join(full)}, or take another type" if full else "take another type"
        return [], [f"{only}, {said}, doesn't offer {missing}: {elsewhere}."]
    if full:
        return full, []
    return [], [f"No availability zone offers {', '.join(sorted(types))} together: take types that one zone has."]


def place_zones(zones: list[str], cidr: str, there: dict[str, str]) -> list[Zone]:
    """Return the zones that have room in the fleet's own network, each with its subnet's network.

    ``there`` has the fleet's subnets of an earlier run, zone and network, which are taken as they are.
    """
    placed: list[Zone] = []
    taken = {zone: ipaddress.ip_network(network) for zone, network in there.items()}
    for zone in zones:
        part = there.get(zone) or zone_part(cidr, zone)
        network = ipaddress.ip_network(part) if part else None
        if network and not any(network.overlaps(other) for name, other in taken.items() if name != zone):
            placed.append({"name": zone, "cidr": part})
            taken[zone] = network
    return placed
