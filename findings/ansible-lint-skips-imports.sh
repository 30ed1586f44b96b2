#!/usr/bin/env bash
# ansible-lint 26.10.1 with ansible-core 2.19.14: a playbook that another one imports, in a project whose ansible.cfg
# names an inventory that can't be read here (it asks a cloud, say) and wants that to be an error.
#
# A good guess: `ansible-lint site.yml` judges what site.yml imports, as its rules judge site.yml itself; and what it
# can't read, it counts as a failure.
# Seen: of the imported playbook it says "Failed to load …, due to failing syntax check", judges nothing in it, and ends
# with "Passed" and 0. With an inventory that can be read it finds the task without a name there, and ends with 2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  ansible-lint==26.10.1 ansible-core==2.19.14 ansible-compat==26.10.0
export PATH=$folder/venv/bin:$PATH HOME=$folder
mkdir "$folder/project" && cd "$folder/project"
git init --quiet .
cat >ansible.cfg <<'END'
[defaults]
inventory = hosts.sh
[inventory]
any_unparsed_is_failed = True
END
printf '#!/bin/sh\necho "no credentials" >&2\nexit 1\n' >hosts.sh
chmod +x hosts.sh
cat >site.yml <<'END'
---
- name: Import the other playbook
  ansible.builtin.import_playbook: other.yml
END
cat >other.yml <<'END'
---
- name: Say hello
  hosts: localhost
  tasks:
    - ansible.builtin.debug:
        msg: hello
END

status=0
ansible-lint --offline --nocolor site.yml >said 2>&1 || status=$?
cat said
[ "$status" -eq 0 ]
grep -q 'Failed to load other.yml playbook due to failing syntax check' said
grep -q 'Passed: 0 failure(s)' said

status=0
ANSIBLE_INVENTORY=/dev/null ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED=false \
  ansible-lint --offline --nocolor site.yml >said 2>&1 || status=$?
cat said
[ "$status" -eq 2 ]
grep -q 'name\[missing\]' said
grep -q 'other.yml:5' said
echo "as seen"
