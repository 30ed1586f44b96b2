# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a user may set: names, kinds and values of variables, judged before anything is touched.

Functions return the problems that they find, each as one sentence for the user.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.flotilla.kit.plugins.module_utils import (
    fleet_groups,
    lifetime,
    naming,
    regions,
    s3_urls,
    untyped,
)

# Names that begin so are the kit's. node_ isn't among them: others' inventories are full of such names.
PREFIXES = (
    "dataset_", "fleet_", "hdfs_", "infer_", "radl_", "spark_", "store_", "sweep_", "tensorboard_", "tensorflow_",
    "training_",
)  # fmt: skip
# What an inference can't do without
INFERENCE = ("infer_model", "infer_source", "infer_target")
# What a training can't do without
NEEDED = ("job", "training_max_steps", "training_batch_size", "training_scheme", "training_sync")
FOLDERS = ("dataset_source", "store_target")
CAST = ("fleet_ssh_sources",)  # a module makes a list of it
WEEK = 7 * 24 * 60  # minutes: no fleet lives longer
JOB_LENGTH = 64
MOST_STEPS = 2**63 - 1  # TensorFlow's global step
# Variables that tasks have from the kit, by which they find HDFS, S3 and each other
OWN_ENVIRONMENT = re.compile(
    r"TF_CONFIG|HOME|PATH|CLASSPATH|JAVA_HOME|LD_LIBRARY_PATH|NOTIFY_SOCKET|(HADOOP|LIBHDFS|AWS)_\w*"
)
MOST_BATCH = 2**31 - 1
# AWS allows 50 tags a resource, and a host has 9 of the kit's own (module_utils/launch.py).
MOST_TAGS = 50 - 9


def check_names(names: Iterable[str], typed: Iterable[str], known: Iterable[str]) -> list[str]:
    """Name the variables that nobody reads: near a known one, or with a prefix of ours.

    Other names are the user's own. Of those ``typed`` at the command line, a known name without its prefix is one, too.
    """
    known = sorted(known)
    typed = set(typed)
    short = {name.split("_", 1)[1]: name for name in known if name.startswith(PREFIXES)}
    problems = []
    for name in sorted({*names, *typed} - set(known)):
        if name.startswith(("_", "ansible_")):
            continue
        ours = name.startswith(PREFIXES)
        near = difflib.get_close_matches(name.lower().replace("-", "_"), known, 1, 0.7 if ours else 0.85)
        if near and len(name) < 5 and name not in typed and name.lower() != near[0]:
            near = []  # a name of one's own, as jobs
        if not near and name in typed and name in short:  # region for fleet_region
            near = [short[name]]
        if near:
            problems.append(f"There is no variable {name}: did you mean {near[0]}?")
        elif ours:
            problems.append(
                f"There is no variable {name}: docs/variables.md and the roles' READMEs list them all, "
                f"and names of your own don't begin with {name.split('_', 1)[0]}_."
            )
    return problems


def check_kind(name: str, value: object, spec: untyped.Option) -> list[str]:
    """Hold a value against an option of an argument specification."""
    kind = spec.get("type", "str")
    if kind in ("str", "path"):
        if isinstance(value, (bool, float)):
            return [_untext(name, value)]
        if isinstance(value, (Mapping, list, tuple)):
            return [f"{name} is {value}: give text, not a list or a mapping."]
    # Ansible's specifications take text for both, but don't make them of it.
    if kind in ("list", "dict") and isinstance(value, str) and name not in CAST:
        what = "a list" if kind == "list" else "a mapping"
        return [f"{name} is '{value}', which is text: give {what}, on the command line as -e '{{\"{name}\": …}}'."]
    if kind in ("int", "float"):
        if isinstance(value, bool) or (kind == "int" and fleet_groups.whole(value) is None):
            return [f"{name} is '{value}': give a whole number."]
        try:
            number = float(str(value))
        except (TypeError, ValueError, OverflowError):
            return [f"{name} is '{value}': give a number."]
        if number < 0 or not math.isfinite(number):
            return [f"{name} is {value}: give a number from 0 on."]
    bare = {key: spec[key] for key in ("type", "elements", "choices") if key in spec}
    found = ArgumentSpecValidator({name: bare}).validate({name: value}).error_messages
    if not found:
        return []
    if "choices" in spec:
        *most, last = map(str, spec["choices"])
        return [f"{name} is '{value}': take {', '.join(most)} or {last}."]
    wanted = {"bool": "true or false", "list": "a list", "dict": "a mapping"}.get(kind)
    return [f"{name} is '{value}': give {wanted}." if wanted else f"{found[0].rstrip('.')}."]


def _untext(name: str, value: object) -> str:
    what = "a truth value" if isinstance(value, bool) else "a number"
    return f"{name} is {value}: YAML takes what is written there for {what}, so write it in quotes."


def check_job(job: object, written: str | None = None) -> list[str]:
    """A job's name goes into folders of S3 and HDFS; ``written`` is the text of the YAML that a number came from."""
    if isinstance(job, (bool, float)):
        return [_untext("job", job)]
    if job in ("True", "False"):
        return [f"job is {job}, which Ansible before 2.19 takes for a truth value: give another name."]
    if written is not None and written != str(job):
        return [f"job is written {written}, which YAML takes for {job}: write it in quotes."]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", str(job)):
        return [f"job is {str(job)!r}: give letters, digits, dots, dashes and underscores."]
    if len(str(job)) > JOB_LENGTH:
        return [f"job has {len(str(job))} characters: take at most {JOB_LENGTH}."]
    return []


def check_whole(name: str, value: object, what: str, most: int, least: int = 1) -> list[str]:
    """A number of something, from ``least`` on."""
    number = fleet_groups.whole(value)
    if number is None or number < least:
        return [f"{name} is '{value}': give a whole number of {what}, at least {least}."]
    return [f"{name} is {value}: give at most {most}."] if number > most else []


def check_ssh_key(path: object) -> list[str]:
    """A file has a name; what is in it the preflight looks at."""
    if not isinstance(path, str) or not path.strip():
        return [f"fleet_ssh_key is {path or 'empty'}: name a private key's file, which is made if it isn't there."]
    return []


def check_tags(tags: object) -> list[str]:
    """The user's own tags, as all services take them (EC2 names 127 characters, IAM signs)."""
    if not isinstance(tags, Mapping):
        return check_kind("fleet_tags", tags, {"type": "dict"})
    if len(tags) > MOST_TAGS:
        return [f"fleet_tags has {len(tags)} tags: give at most {MOST_TAGS}, as AWS allows 50 and 9 are the kit's own."]
    problems = [problem for key, value in tags.items() for problem in _check_tag(key, value)]
    seen: dict[str, str] = {}
    for key in map(str, tags):
        first = seen.setdefault(key.lower(), key)
        if first != key:
            problems.append(f"fleet_tags has the keys {first} and {key}, which are one to IAM: leave one out.")
    return problems


def _check_tag(key: object, value: object) -> list[str]:
    for what, text, least, most in (("key", key, 1, 127), ("value", value, 0, 256)):
        if not isinstance(text, str):
            return [f"fleet_tags has the {what} {text}, which YAML takes for no text: write it in quotes."]
        if not least <= len(text) <= most:
            return [f"fleet_tags has a {what} of {len(text)} characters, '{text[:20]}…': AWS takes {least} to {most}."]
        if not re.fullmatch(r"[\w .:/=+@-]*", text):
            return [f"fleet_tags has the {what} '{text}': AWS takes letters, digits, spaces and . _ : / = + @ - only."]
    lowered = str(key).lower()
    if lowered == "name" or lowered.startswith(("flotilla-", "aws:")):
        return [f"fleet_tags has the key {key}: Name and flotilla-… are the kit's own, aws:… is AWS's; take another."]
    return []


def check_minutes(name: str, minutes: object, none: str) -> list[str]:
    """Some minutes, or 0 for none."""
    text = str(minutes)
    if not re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        return [f"{name} is '{minutes}': give a number of minutes, or 0 for {none}."]
    if float(text) > WEEK:
        return [f"{name} is {minutes}: give at most {WEEK} (a week), or 0 for {none}."]
    return []


def check_environment(environment: object) -> list[str]:
    """Names and values for the environment of a program; no value is shown."""
    if not isinstance(environment, Mapping):
        return ["training_environment has to be a mapping of names to values, as {WANDB_MODE: offline}."]
    for name, value in environment.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(name)):
            return [f"training_environment has the name '{name}': take letters, digits and underscores."]
        if OWN_ENVIRONMENT.fullmatch(str(name)):
            return [f"training_environment sets {name}, which the hosts' own programs need: leave it out."]
        if isinstance(value, (Mapping, list)) or value is None:
            return [f"training_environment.{name} is no text: write its value in quotes."]
    return []


def check_sync(sync: object, groups: object) -> list[str]:
    """Synchronous training takes more than one trainer."""
    if str(sync).lower() not in ("true", "yes", "on", "1") or not isinstance(groups, Mapping):
        return []
    if not fleet_groups.trains(groups):
        return []
    workers = fleet_groups.whole((groups.get("worker") or {}).get("count", 0)) or 0
    if workers or (fleet_groups.whole((groups.get("chief") or {}).get("tasks")) or 1) > 1:
        return []
    return [
        "training_sync is true, but the chief trains alone: have a worker, or set fleet_groups.chief.tasks "
        "to 2 or more, or leave it false."
    ]


def check_values(
    values: Mapping[str, object], specs: Mapping[str, untyped.Option], written: str | None = None
) -> list[str]:
    """Judge what is set, as far as it can be judged without AWS; ``written`` as in check_job."""
    checks: dict[str, Callable[[object], list[str]]] = {
        "fleet_name": lambda name: naming.check_name(str(name)),
        "fleet_region": lambda region: regions.check_region(str(region)),
        "fleet_endpoint_url": lambda url: regions.check_endpoint(str(url)),
        "fleet_expiry_hours": lifetime.check_expiry,
        "fleet_groups": lambda groups: fleet_groups.check_groups(groups, partial=bool(values.get("training_network"))),
        "job": lambda job: check_job(job, written),
        "fleet_ssh_key": check_ssh_key,
        "fleet_tags": check_tags,
        "fleet_volume_size": lambda size: check_whole("fleet_volume_size", size, "GiB", 16384),
        "training_max_steps": lambda steps: check_whole("training_max_steps", steps, "steps", MOST_STEPS),
        "training_batch_size": lambda size: check_whole("training_batch_size", size, "images", MOST_BATCH),
        "training_watchdog_secs": lambda secs: check_whole("training_watchdog_secs", secs, "seconds", WEEK * 60, 5),
        "training_environment": check_environment,
        "training_minutes": lambda minutes: check_minutes("training_minutes", minutes, "all training_max_steps"),
        "store_mirror_minutes": lambda minutes: check_minutes("store_mirror_minutes", minutes, "no mirror"),
    }
    problems: list[str] = []
    for name, value in values.items():
        if value is not None:
            problems += checks[name](value) if name in checks else check_kind(name, value, specs[name])
        elif name not in ("fleet_profile", *NEEDED, *FOLDERS):  # of most lines without a value Ansible makes an error
            problems.append(f"{name} is empty: give it a value, or leave it out.")
    if values.get("training_network"):  # its file may say how many workers there are
        return problems
    return problems or check_sync(values.get("training_sync"), values.get("fleet_groups"))


def check_inference(values: Mapping[str, object], unknown: Iterable[str] = ()) -> list[str]:
    """What an inference can't do without is set; ``unknown`` aren't judged."""
    problems = []
    for name in INFERENCE:
        url = str(values.get(name) or "").strip()
        if name in unknown:
            continue
        if not url:
            problems.append(f"{name} isn't set: give it on the command line, as -e {name}=s3://bucket/folder/.")
        elif "CHANGE-ME" in url:
            problems.append(f"{name} is still {url}: put your bucket's name in CHANGE-ME's place.")
        elif name == "infer_target":
            problems += s3_urls.check_folder(url, name)
        elif url.startswith("hdfs://"):
            continue
        else:
            problems += s3_urls.check_source(url, name)
    target, source = (str(values.get(name) or "") for name in ("infer_target", "infer_source"))
    if not problems and target.startswith("s3://") and source.startswith("s3://"):
        problems += s3_urls.check_apart(source, target, "infer_source", "infer_target")
    program = str(values.get("infer_program") or "")
    if program and not (Path(os.environ.get("PWD", "")) / Path(program).expanduser()).is_file():
        problems.append(f"infer_program is {program}: there is no such file on this machine.")
    share = str(values.get("infer_most_broken", 0))
    if not re.fullmatch(r"\d*\.?\d+", share) or float(share) > 1:
        problems.append(f"infer_most_broken is {share}: give a share from 0 to 1.")
    return problems


def check_sweep(values: Mapping[str, object], unknown: Iterable[str] = ()) -> list[str]:
    """What a sweep can't do without is set; ``unknown`` aren't judged. What its file says, a host judges."""
    problems = []
    name = str(values.get("sweep") or "").strip()
    if name and not (Path(os.environ.get("PWD", "")) / Path(name).expanduser()).is_file():
        problems.append(f"sweep is {name}: there is no such file on this machine.")
    if not values.get("store_target") and "store_target" not in unknown:
        problems.append("store_target isn't set: give the folder in S3 for what sweeps store, as s3://bucket/models/.")
    target = str(values.get("sweep_target") or "")
    return problems + (s3_urls.check_folder(target, "sweep_target") if target else [])


def check_needed(values: Mapping[str, object], unknown: Iterable[str] = ()) -> list[str]:
    """What a training can't do without is set, and it doesn't write where it reads; ``unknown`` aren't judged."""
    if not fleet_groups.trains(values.get("fleet_groups")):
        return [
            "The fleet has no chief to train (fleet_groups.chief.count is 0): set the count to 1, or run inference.yml."
        ]
    by_network = ("training_max_steps", "training_batch_size") if values.get("training_network") else ()
    problems = [
        f"{name} isn't set: the inventory's group_vars/all.yml sets it, as inventories/aws/group_vars/all.yml does."
        for name in NEEDED
        if values.get(name) is None and name not in unknown and name not in by_network
    ]
    urls = {name: str(values.get(name) or "") for name in FOLDERS if name not in unknown}
    for name, url in urls.items():
        if not url.strip():
            problems.append(f"{name} is empty: set it to a folder in S3, as s3://bucket/folder/.")
        elif "CHANGE-ME" in url:
            problems.append(f"{name} is still {url}: put your bucket's name in CHANGE-ME's place.")
        else:
            check = s3_urls.check_source if name == "dataset_source" else s3_urls.check_folder
            problems += check(url, name)
    return problems if problems or len(urls) < 2 else s3_urls.check_apart(*urls.values())
