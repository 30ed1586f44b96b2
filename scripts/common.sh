# shellcheck shell=bash
# Sourced by the scripts beside it: what all of them need before they can start.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
venv=$root/.venv
uv_version=0.13.8

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo --preserve-env=PATH,TERM "$@"; fi
}

# install_packages WHY PACKAGE…: says what is missing, then installs it.
install_packages() {
  local why=$1 package missing=()
  shift
  for package in "$@"; do
    dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  [ "${#missing[@]}" -eq 0 ] && return
  [ -e /etc/debian_version ] || die "needs Debian 12 or Ubuntu 22.04, or these installed by hand: ${missing[*]}"
  say "installing for $why: ${missing[*]}"
  as_root apt-get update -q >/dev/null
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
}

# The controller's Python environment, from the lock file; made anew only when that has changed.
prepare_environment() {
  local stamp=$venv/.lock lock=$root/requirements.lock
  cmp -s "$lock" "$stamp" && return
  install_packages "the Python environment" python3 python3-venv openssh-client git ca-certificates
  say "making the Python environment .venv (Ansible, boto3, moto)"
  local tools=${XDG_CACHE_HOME:-$HOME/.cache}/flotilla/uv-$uv_version
  if [ ! -x "$tools/bin/uv" ]; then
    /usr/bin/python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check "uv==$uv_version"
  fi
  export UV_SYSTEM_CERTS=true
  [ -x "$venv/bin/python" ] || "$tools/bin/uv" venv --quiet --python '>=3.11,<3.14' "$venv"
  "$tools/bin/uv" pip sync --quiet --require-hashes --python "$venv/bin/python" "$lock"
  cp "$lock" "$stamp"
}
