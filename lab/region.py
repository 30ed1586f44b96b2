"""The region's daemon: moto's AWS API, with a host for each instance.

moto has the state of EC2, S3, IAM, STS and SSM. This module boots and halts a host, a systemd-nspawn container, for
each instance, enforces the security groups, and mends moto where it differs from AWS's documented behaviour.
"""

from __future__ import annotations

import base64
import copy
import ipaddress
import itertools
import json
import logging
import os
import secrets
import threading
import time

from moto.ec2.models import ec2_backends
from moto.ec2.models import elastic_ip_addresses as moto_addresses
from moto.ec2.models import elastic_network_interfaces as moto_interfaces
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.models.instances import Instance, InstanceBackend, StateReason
from moto.ec2.responses.instances import InstanceResponse
from moto.moto_server.werkzeug_app import MotoRequestHandler
from moto.sts.models import sts_backends
from werkzeug.serving import make_server

from . import (
    access,
    api,
    image,
    judge,
    judge_iam,
    judge_images,
    judge_launch,
    market,
    network,
    schedules,
    seed,
)
from .hosts import Host, LayerGone
from .metadata import LABEL, Metadata, Tree, timestamp
from .network import Port, Rule
from .settings import ACCOUNT, API_ADDRESS, API_PORT, CACHE, CORE_NETNS, ENDPOINT, NODES, READY, REGION, S3_PORT, Facts
from .shell import LabError
from .snapshots import Snapshots
from .untyped import Moto, Request

log = logging.getLogger("lab")

STATES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
STOP_SECONDS = 90.0  # AWS waits for minutes; a user of the lab would not
TERMINATE_SECONDS = 4.0
CREDENTIAL_SECONDS = 6 * 3600
LATE_SECONDS = 2.0  # until a new instance profile or role is known everywhere; AWS's take up to some ten


class Region:
    """One running region."""

    def __init__(self) -> None:
        self.ec2 = ec2_backends[ACCOUNT][REGION]
        self.image = image.path()
        self.hosts: dict[str, Host] = {}
        self.snapshots = Snapshots(self.ec2, self.hosts)
        self.metadata = Metadata(self.describe)
        self.network_lock = threading.Lock()
        self.applied: dict[str, str] = {}
        self.credentials: dict[str, tuple[str, float, str]] = {}
        self.launch_lock = threading.Lock()
        self.run_lock = threading.Lock()

    # ------------------------------------------------------------ an instance's life

    def set_state(self, instance: Instance, name: str) -> None:
        """Change the state that the API reports."""
        instance._state.name, instance._state.code = name, STATES[name]

    def launch(self, instance: Instance) -> None:
        """Boot a host for a new or stopped instance, in the background."""
        self.set_state(instance, "pending")
        if instance.id not in self.hosts:
            disk = self.snapshots.disk(str(instance.image_id))
            cpus = int(INSTANCE_TYPES[instance.instance_type]["VCpuInfo"]["DefaultVCpus"])
            layers = [*disk.layers, self.image]
            # Who reaches no package index gets no packages from the lab's caches either.
            cached = self.port(instance).services == "all"
            self.hosts[instance.id] = Host(instance.id, layers, disk.user, cpus, cached, self.host_ended)
        threading.Thread(target=self._launch, args=(instance,), name=f"launch {instance.id}").start()

    def _launch(self, instance: Instance) -> None:
        host = self.hosts[instance.id]
        try:
            vpc_id, address = str(instance.vpc_id), str(instance.private_ip)
            subnet = self.ec2.get_subnet(str(instance.subnet_id))
            with self.launch_lock:
                if network.vpc_up(vpc_id):
                    self.apply_rules(vpc_id)
                    self.metadata.serve(vpc_id)
            network.node_up(vpc_id, instance.id, address, ipaddress.ip_network(subnet.cidr_block).prefixlen)
            self.apply_rules(vpc_id)
            if instance.state != "pending":  # terminated while its network was made
                return
            host.start()
            self.set_state(instance, "running")
            log.info("%s runs at %s, %s", instance.id, address, instance.public_ip)
        except LayerGone as error:
            log.error("%s could not be started: %s", instance.id, error)
            instance.terminate()
            code = "Client.InvalidSnapshot.NotFound"
            instance.state_reason = StateReason(f"{code}: The specified snapshot was not found.", code)
        except Exception as error:
            log.exception("%s could not be started", instance.id)
            instance.terminate()
            instance.state_reason = StateReason(f"Server.InternalError: {error}", "Server.InternalError")

    def host_ended(self, instance_id: str) -> None:
        """A host powered itself off: what follows is its instance_initiated_shutdown_behavior."""
        instance = self.ec2.get_instance(instance_id)
        log.info("%s has shut itself down: %s", instance_id, instance.instance_initiated_shutdown_behavior)
        if instance.instance_initiated_shutdown_behavior == "terminate":
            instance.terminate()
        else:
            instance.stop()
        instance.state_reason = StateReason(
            "Client.InstanceInitiatedShutdown: Instance initiated shutdown", "Client.InstanceInitiatedShutdown"
        )

    def halt(self, instance: Instance, final: str, seconds: float) -> None:
        """Power an instance's host off in the background; the API then reports `final` (stopped, terminated)."""
        self.set_state(instance, "shutting-down" if final == "terminated" else "stopping")
        threading.Thread(target=self._halt, args=(instance, final, seconds), name=f"halt {instance.id}").start()

    def _halt(self, instance: Instance, final: str, seconds: float) -> None:
        host = self.hosts.get(instance.id)
        try:
            if host:
                with host.busy:
                    host.stop(seconds)
                    if final == "terminated":
                        host.remove()
                        del self.hosts[instance.id]
                self.snapshots.collect()
        except Exception:  # `down` removes what is left; the API must not wait for it forever
            log.exception("%s could not be cleaned up", instance.id)
        self.set_state(instance, final)
        self.apply_rules(str(instance.vpc_id))
        log.info("%s is %s", instance.id, final)

    # ------------------------------------------------------------ the network

    def apply_rules(self, vpc_id: str | None = None) -> None:
        """Bring the routers' rules in line with the API's books."""
        with self.network_lock:
            for vpc in [vpc_id] if vpc_id else list(self.applied):
                if vpc not in self.ec2.vpcs:
                    self.metadata.leave(vpc)
                    network.vpc_down(vpc)
                    del self.applied[vpc]
                    continue
                ports = self.ports(vpc)
                rules = network.render(ports)
                if self.applied.get(vpc) != rules:
                    network.apply(vpc, ports, rules)
                    self.applied[vpc] = rules

    def ports(self, vpc_id: str) -> list[Port]:
        """The VPC's instances with the rules of their groups."""
        ports = []
        for instance in self.ec2.all_instances():
            if instance.vpc_id != vpc_id or instance.state not in ("pending", "running", "stopping", "shutting-down"):
                continue
            if not instance.nics or network.node_netns(instance.id) not in network.namespaces():
                continue
            ports.append(self.port(instance))
        return ports

    def port(self, instance: Instance) -> Port:
        """An instance's place in the network, with the rules of its groups."""
        groups = {g.id: g for g in (*instance.nics[0].group_set, *instance.security_groups)}
        tables = self.tables(str(instance.subnet_id))
        public = any(
            route.destination_cidr_block == "0.0.0.0/0" and str(route.gateway_id).startswith("igw-")
            for table in tables
            for route in table.routes
        )
        endpoint = any(
            one.service_name.endswith(".s3") and one.state == "available" and table.id in (one.route_table_ids or [])
            for one in self.ec2.vpc_end_points.values()
            for table in tables
        )
        return Port(
            instance_id=instance.id,
            address=str(instance.private_ip),
            public_address=instance.public_ip if public else None,
            groups=sorted(groups),
            ingress=[self.rule(r) for group in groups.values() for r in group.ingress_rules],
            egress=[self.rule(r) for group in groups.values() for r in group.egress_rules],
            s3_endpoint=endpoint,
        )

    def tables(self, subnet_id: str) -> list[Moto]:
        """A subnet's route table: its own, or its VPC's main one."""
        vpc_id = self.ec2.get_subnet(subnet_id).vpc_id
        tables = [t for t in self.ec2.route_tables.values() if t.vpc_id == vpc_id]
        own = [t for t in tables if subnet_id in t._associations.values()]
        return own or [t for t in tables if t.main_association_id]

    def rule(self, rule: Moto) -> Rule:
        """A permission of a security group's."""
        other = rule.source_group.get("GroupId") if rule.source_group else None
        listed = self.ec2.managed_prefix_lists.get(rule.prefix_list_id)
        return Rule(
            protocol=str(rule.ip_protocol),
            first_port=rule.from_port,
            last_port=rule.to_port,
            networks=(rule.cidr_ipv4,) if rule.cidr_ipv4 else (),
            groups=(other,) if other else (),
            s3=listed is not None and str(listed.prefix_list_name).endswith(".s3"),
        )

    def settle(self, action: str) -> None:
        """Bring hosts' network and the disks behind images in line with EC2, after a call that changes it."""
        try:
            self.apply_rules()
        except LabError:
            log.exception("the network rules could not be applied after %s", action)
        if action in ("DeleteSnapshot", "DeregisterImage"):
            self.snapshots.collect()

    # ------------------------------------------------------------ metadata

    def describe(self, vpc_id: str, address: str) -> tuple[Tree, bytes | None, dict[str, object]] | None:
        """What the metadata service says to the host at an address."""
        found = [i for i in self.ec2.all_instances() if i.vpc_id == vpc_id and i.private_ip == address]
        # An address is handed out again as soon as its instance is told to end.
        found.sort(key=lambda i: i.state not in ("pending", "running"))
        if not found or found[0].state == "terminated":
            return None
        instance = found[0]
        mac = instance.nics[0].mac_address
        interface: Tree = {
            "device-number": "0",
            "interface-id": instance.nics[0].id,
            "local-ipv4s": address,
            "mac": mac,
            "subnet-id": str(instance.subnet_id),
            "vpc-id": vpc_id,
        }
        tree: Tree = {
            "ami-id": instance.image_id,
            "ami-launch-index": str(instance.ami_launch_index),
            "hostname": str(instance.private_dns_name),
            "instance-action": "none",
            "instance-id": instance.id,
            "instance-life-cycle": instance.lifecycle or "on-demand",
            "instance-type": instance.instance_type,
            "local-hostname": str(instance.private_dns_name),
            "local-ipv4": address,
            "mac": mac,
            "network": {"interfaces": {"macs": {mac: interface}}},
            "placement": {"availability-zone": str(instance.availability_zone), "region": REGION},
            "reservation-id": next(
                (r.id for r in self.ec2.reservations.values() if instance in r.instances), "r-unknown"
            ),
            "security-groups": "\n".join(g.name for g in instance.security_groups),
            "services": {"domain": "amazonaws.com", "partition": "aws"},
        }
        if instance.public_ip:
            tree["public-ipv4"] = instance.public_ip
            interface["public-ipv4s"] = instance.public_ip
        key = self.ec2.key_pairs.get(str(instance.key_name))
        if key:
            public = key.material_public
            text = public.decode() if isinstance(public, bytes) else str(public)
            tree["public-keys"] = {"0": {LABEL: key.key_name, "openssh-key": text.strip() + "\n"}}
        profile = self.profile(instance.id)
        if profile:
            tree["iam"] = {
                "security-credentials": {r.name: self.role_credentials(instance.id, r) for r in profile.roles},
                "info": json.dumps(
                    {
                        "Code": "Success",
                        "LastUpdated": timestamp(),
                        "InstanceProfileArn": profile.arn,
                        "InstanceProfileId": profile.id,
                    }
                ),
            }
        document = {
            "accountId": ACCOUNT,
            "architecture": "x86_64",
            "availabilityZone": instance.availability_zone,
            "imageId": instance.image_id,
            "instanceId": instance.id,
            "instanceType": instance.instance_type,
            "pendingTime": instance.launch_time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "privateIp": address,
            "region": REGION,
            "version": "2017-09-30",
        }
        user_data = base64.b64decode(instance.user_data.as_bytes()) if instance.user_data else None
        return tree, user_data, document

    def profile(self, instance_id: str) -> Moto:
        """The instance profile of an instance, or None."""
        association = self.ec2.iam_instance_profile_associations.get(instance_id)
        return association.iam_instance_profile if association else None

    def role_credentials(self, instance_id: str, role: Moto) -> str:
        """Temporary credentials of an instance's role, issued by the region's STS and renewed in time."""
        known = self.credentials.get(instance_id)
        if known and known[0] == role.arn and known[1] - time.time() > 600:
            return known[2]
        session = sts_backends[ACCOUNT]["aws"].assume_role(
            region_name=REGION,
            role_session_name=instance_id,
            role_arn=role.arn,
            policy="",
            duration=CREDENTIAL_SECONDS,
            external_id="",
        )
        ends = time.time() + CREDENTIAL_SECONDS
        text = json.dumps(
            {
                "Code": "Success",
                "LastUpdated": timestamp(),
                "Type": "AWS-HMAC",
                "AccessKeyId": session.access_key_id,
                "SecretAccessKey": session.secret_access_key,
                "Token": session.session_token,
                "Expiration": timestamp(ends),
            }
        )
        self.credentials[instance_id] = (role.arn, ends, text)
        return text


# ---------------------------------------------------------------- mending moto


def attach(region: Region) -> None:
    """Make moto's instances real, and right what it gets wrong."""
    judge.attach()
    judge_images.keeper = region.snapshots
    judge_launch.PROFILE_SECONDS = judge_iam.ROLE_SECONDS = LATE_SECONDS
    _attach_life(region)
    _attach_launch(region)
    _attach_addresses(region)
    market.attach()
    access.attach()


def _attach_life(region: Region) -> None:
    start, stop, terminate = Instance.start, Instance.stop, Instance.terminate

    def started(self: Instance) -> Moto:
        if self.state != "stopped":
            return copy.copy(self._state)
        previous = start(self)
        region.launch(self)
        return previous

    def stopped(self: Instance) -> Moto:
        if self.state not in ("running", "pending"):
            return copy.copy(self._state)
        previous = stop(self)
        region.halt(self, "stopped", STOP_SECONDS)
        return previous

    def terminated(self: Instance) -> Moto:
        if self.state in ("terminated", "shutting-down"):
            return copy.copy(self._state)
        previous = terminate(self)
        region.halt(self, "terminated", TERMINATE_SECONDS)
        return previous

    def rebooted(self: Instance) -> None:
        host = region.hosts.get(self.id)
        if host:
            host.reboot()

    for name, method in {"start": started, "stop": stopped, "terminate": terminated, "reboot": rebooted}.items():
        setattr(Instance, name, method)


def _attach_launch(region: Region) -> None:
    run_instances = InstanceBackend.run_instances

    def launched(self: Moto, image_id: str, count: int, *args: Moto, **kwargs: Moto) -> Moto:
        # One at a time, RequestSpotInstances' too: moto takes addresses from a generator.
        with region.run_lock:
            reservation = run_instances(self, image_id, count, *args, **kwargs)
        profile = {
            f"iam_instance_profile_{k}": kwargs[f"iam_instance_profile_{k}"]
            for k in ("name", "arn")
            if kwargs.get(f"iam_instance_profile_{k}")
        }
        for instance in reservation.instances[1:]:  # moto itself thinks of the first only
            if profile:
                self.associate_iam_instance_profile(instance_id=instance.id, **profile)
        for instance in reservation.instances:
            if kwargs.get("instance_market_options"):  # not for RequestSpotInstances, which has made its request
                market.note_request(instance)
            region.launch(instance)
        return reservation

    InstanceBackend.run_instances = launched  # type: ignore[method-assign]

    # AWS takes the size of the root volume from the image where a mapping names none; moto refuses.
    validate = InstanceResponse._validate_block_device_mapping

    def validated(mapping: Request) -> None:
        if "Ebs" in mapping and not mapping["Ebs"].get("VolumeSize") and not mapping["Ebs"].get("SnapshotId"):
            mapping["Ebs"]["VolumeSize"] = 8
        validate(mapping)

    setattr(InstanceResponse, "_validate_block_device_mapping", staticmethod(validated))  # noqa: B010


def _attach_addresses(region: Region) -> None:
    # moto draws public addresses at random from the real internet's; ours come from a range that nobody routes.
    numbers = itertools.cycle(range(10, 250))

    def next_public_address() -> str:
        used = {eni.public_ip for eni in region.ec2.enis.values() if eni.public_ip}
        used |= {str(address.public_ip) for address in region.ec2.addresses}
        for number in itertools.islice(numbers, 240):
            address = f"198.51.100.{number}"
            if address not in used:
                return address
        raise LabError("the lab's public addresses are used up (240)")

    moto_interfaces.random_public_ip = next_public_address  # type: ignore[attr-defined]
    moto_addresses.random_ip = next_public_address  # type: ignore[attr-defined]


def main() -> None:
    """Run the region until it is told to end."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    NODES.mkdir(parents=True, exist_ok=True)
    (CACHE / "uv").mkdir(parents=True, exist_ok=True)
    slirp = network.core_up()
    region = Region()
    attach(region)
    key, secret = seed.seed()
    schedules.start()
    with network.inside(CORE_NETNS):
        application = api.application(region.settle)
        server, gateway = (
            make_server(API_ADDRESS, port, app, threaded=True, request_handler=MotoRequestHandler)
            for port, app in ((API_PORT, application), (S3_PORT, api.s3_alone(application)))
        )
    threading.Thread(target=gateway.serve_forever, name="S3's gateway endpoint", daemon=True).start()
    ready = READY.with_suffix(".part")
    ready.touch(mode=0o600)
    ready.write_text(
        json.dumps(
            Facts(
                pid=os.getpid(), id=secrets.token_hex(4), endpoint=ENDPOINT, region=REGION, access_key=key,
                secret_key=secret, image=region.image.name, slirp=slirp.pid,
            )
        )
    )  # fmt: skip
    ready.rename(READY)
    log.info("the region answers at %s", ENDPOINT)
    server.serve_forever()


if __name__ == "__main__":
    main()
