#!/usr/bin/env bash
# The module amazon.aws.ec2_key of ansible 12.3.0 (amazon.aws 10.1.2) with the public key of a key pair that is there.
#
# A good guess: a second run with the same key asks for the key pair and is done; and check mode says "no change".
# Seen: each later run imports the key once more, under the random name ansible-UUID and without tags, to compare AWS's
# fingerprints, and deletes that again: where IAM lets one import or delete tagged key pairs alone the unchanged key is
# refused, and a run that is killed between the two leaves a stray key pair. In check mode it compares nothing, and says
# "changed" of the key that is there already.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ansible==12.3.0 'moto[ec2,server]==5.2.5' boto3==1.44.8 botocore==1.44.8
ssh-keygen -q -t ed25519 -N "" -f "$folder/key"
cd "$folder"
AWS_ACCESS_KEY_ID=none AWS_SECRET_ACCESS_KEY=none AWS_REGION=us-east-1 PATH="$folder/venv/bin:$PATH" python - <<'PYTHON'
import json
import os
import subprocess
from importlib import metadata
from pathlib import Path

from moto.ec2.models.key_pairs import KeyPairBackend
from moto.server import ThreadedMotoServer

imported = []
original = KeyPairBackend.import_key_pair


def noted(self, key_name, *arguments, **options):
    imported.append(key_name)
    return original(self, key_name, *arguments, **options)


KeyPairBackend.import_key_pair = noted
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
address = "http://{}:{}".format(*server.get_host_and_port())


def run(*options):
    """Run the module; return the names of the key pairs that were imported, and whether it says "changed"."""
    imported.clear()
    task = {"name": "mine", "key_material": Path("key.pub").read_text()}
    done = subprocess.run(
        ["ansible", "localhost", "-m", "amazon.aws.ec2_key", "-a", json.dumps(task), *options],
        env={**os.environ, "AWS_ENDPOINT_URL": address, "ANSIBLE_LOCALHOST_WARNING": "false"},
        capture_output=True, text=True, check=True,
    )
    return ["mine" if name == "mine" else name.partition("-")[0] for name in imported], '"changed": true' in done.stdout


first, second, dry = run(), run(), run("--check")
print("ansible", metadata.version("ansible"), "- key pairs imported, and changed:")
print("first run", first, "- second run", second, "- check mode", dry)
assert (first, second, dry) == ((["mine"], True), (["ansible"], False), ([], True))
PYTHON
