# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where an existing subnet's routes lead, and what hosts need that isn't there: logic without any call to AWS.

Hosts of a baked image need each other and S3, for which a gateway endpoint is enough.
"""

from __future__ import annotations

from pathlib import Path

from ansible_collections.flotilla.kit.plugins.module_utils import untyped

EVERYWHERE = "0.0.0.0/0"


def table_of(tables: list[untyped.Answer], subnet: str) -> untyped.Answer:
    """Return the route table of a subnet: its own, else the VPC's main one, else an empty one."""
    links = [(link, table) for table in tables for link in table.get("Associations", [])]
    own = [table for link, table in links if link.get("SubnetId") == subnet]
    main = [table for link, table in links if link.get("Main")]
    return next(iter([*own, *main]), {})


def ways(table: untyped.Answer, endpoints: list[untyped.Answer], public: bool) -> tuple[bool, bool]:
    """Return whether hosts get out to the internet by a route table, and whether they get to S3.

    Through an internet gateway only hosts with public addresses do; what a NAT or transit gateway, or a company's
    router, makes of it isn't known here, and taken for a way out.
    """
    out = [
        route
        for route in table.get("Routes", [])
        if route.get("DestinationCidrBlock") == EVERYWHERE and route.get("State", "active") == "active"
    ]
    internet = any(public or not str(route.get("GatewayId", "")).startswith("igw-") for route in out)
    s3 = any(
        one["ServiceName"].endswith(".s3")
        and one.get("State", "available").lower() == "available"
        and (one.get("VpcEndpointType") != "Gateway" or table.get("RouteTableId") in one.get("RouteTableIds", []))
        for one in endpoints
    )
    return internet, internet or s3


def check(where: str, s3: bool, bare: list[str], plain: list[str], program: str, im: bool) -> list[str]:
    """Name what hosts need of the internet, in a subnet (``where``) that has no way there.

    ``s3`` is whether it has one to S3; ``bare`` are the groups that install from the internet, ``plain`` those of them
    whose GPU's driver is to be installed; ``im`` is whether the Infrastructure Manager raises the fleet.
    """
    if not s3:
        return [
            f"{where} has no way to the internet and none to S3, where data and models are: give its route table a "
            "gateway endpoint for S3, which costs nothing, or take another subnet."
        ]
    no_way = f"{where} has no way to the internet, but"
    problems = []
    if im:
        problems.append(
            f"{no_way} the Infrastructure Manager's hosts get Ansible and the collection from there: take another "
            "subnet, or raise the fleet by site.yml."
        )
    if plain:
        problems.append(
            f"{no_way} the hosts of {', '.join(plain)} install their GPU's driver from there: take another subnet, or "
            "GPUs whose driver is in AWS's image (T4, A10G and newer)."
        )
    others = [name for name in bare if name not in plain]
    if others:
        problems.append(
            f"{no_way} the hosts of {', '.join(others)} start from a bare image, and install from there: bake one "
            "first (playbooks/image.yml, without fleet_vpc_id and fleet_subnet_id), or take another subnet."
        )
    if program.startswith("git+"):
        problems.append(
            f"{no_way} training_program {program} is fetched from git: put it into S3 (s3://bucket/path/program.tar.gz)"
            ", or take another subnet."
        )
    folder = Path(program).expanduser()
    if program and "://" not in program and (folder / "requirements.txt").is_file():
        problems.append(
            f"{no_way} training_program {program} has a requirements.txt, which is installed from there: take out what "
            "TensorFlow's environment has already, or take another subnet."
        )
    return problems
