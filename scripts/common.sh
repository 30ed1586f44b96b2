# shellcheck shell=bash
# Sourced by the scripts beside it: what all of them need before they can start.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
venv=$root/.venv
uv_version=0.13.8

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# A locale that isn't there, as ssh may bring one along, ends Python's programs and fills the others' output.
if [ "$(locale charmap 2>/dev/null)" != UTF-8 ]; then export LC_ALL=C.UTF-8; fi
if [ -n "$(find "$root" -maxdepth 0 -perm -o+w)" ]; then
  die "others may write to $root, so Ansible wouldn't read its ansible.cfg: chmod o-w '$root'"
fi

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo --preserve-env=PATH,TERM,AWS_CONFIG_FILE "$@"; fi
}

# install_packages WHY PACKAGE…: says what is missing, then installs it.
install_packages() {
  local why=$1 package missing=()
  shift
  for package in "$@"; do
    dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  [ "${#missing[@]}" -eq 0 ] && return
  [ -e /etc/debian_version ] || die "needs Debian 12 or 13, Ubuntu 22.04 or 24.04, or these installed by hand: ${missing[*]}"
  say "installing for $why: ${missing[*]}"
  as_root apt-get update -q >/dev/null
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
}

# Ubuntu has Debian's keys, which the lab's image is checked with, in a package of their own.
install_lab() {
  install_packages "the lab" mmdebstrap debian-archive-keyring systemd-container nftables slirp4netns iproute2 util-linux
}

# uv, from its own little environment outside the checkout; sets $uv.
prepare_uv() {
  local tools=${XDG_CACHE_HOME:-$HOME/.cache}/flotilla/uv-$uv_version
  uv=$tools/bin/uv
  export UV_SYSTEM_CERTS=true
  [ -x "$uv" ] && return
  install_packages "the Python environment" python3 python3-venv ca-certificates
  /usr/bin/python3 -m venv "$tools"
  "$tools/bin/pip" install --quiet --disable-pip-version-check "uv==$uv_version"
}

# make_environment FOLDER PYTHON LOCK WHAT: a Python environment that holds just what a lock file lists; made anew only
# when that has changed. uv downloads a Python where none fits.
make_environment() {
  local folder=$1 python=$2 lock=$3 what=$4 problem
  cmp -s "$lock" "$folder/.lock" && return
  prepare_uv
  say "making the Python environment $(basename "$folder") ($what)"
  if ! [ -x "$folder/bin/python" ] && ! problem=$("$uv" venv --quiet --python "$python" "$folder" 2>&1); then
    "$uv" python find --quiet --system "$python" >/dev/null 2>&1 && die "$problem"
    die "$(basename "$folder") ($what) needs Python $python: none is in PATH, and uv could download none; install one," \
      "as pyenv does, and put it into PATH"
  fi
  "$uv" pip sync --quiet --require-hashes --compile-bytecode --python "$folder/bin/python" "$lock"
  cp "$lock" "$folder/.lock"
}

# The Infrastructure Manager's server and client, beside the lab; git serves it the collection.
prepare_im() {
  make_environment "$root/.venv-im" '>=3.11,<3.13' "$root/requirements-im.lock" "the Infrastructure Manager"
}

# The trainers' environment, for their tests.
prepare_training() {
  make_environment "$root/.venv-training" '>=3.10,<3.12' "$root/training/requirements-test.lock" "TensorFlow"
}

# start_well FOLDER: every program of a Python environment begins with start.py.
start_well() {
  local site
  for site in "$1"/lib/python3.*/site-packages; do
    cmp -s "$root/scripts/start.py" "$site/flotilla_start.py" && continue
    cp "$root/scripts/start.py" "$site/flotilla_start.py"
    echo "import flotilla_start" >"$site/flotilla_start.pth"
  done
}

# The controller's environment: Ansible, boto3, and the lab.
prepare_environment() {
  install_packages "the controller" openssh-client git
  make_environment "$venv" '>=3.11,<3.14' "$root/requirements.lock" "Ansible, boto3, moto"
  start_well "$venv"
}
