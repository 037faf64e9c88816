# shellcheck shell=bash
# Sourced by the scripts beside it: one environment for all of them, in .venv.
#
# `bootstrap` finds a Python, makes .venv and installs requirements.lock and the
# project into it. What is there already is kept: a second start takes no time,
# a changed lock is caught up with, and an interrupted installation begins anew.
# AEENT_PYTHON, or else PYTHON, names the interpreter to use.

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"

say() { printf '[aeent] %s\n' "$*"; }

fail() {
  printf '[aeent] error: %s\n' "$*" >&2
  exit 1
}

# Prints version and home of an interpreter, also of a very old one. The base
# of a virtual environment counts, so that an active one changes nothing.
probe() {
  "$1" -c 'import sys
print("%d.%d %s" % (sys.version_info[0], sys.version_info[1],
                    getattr(sys, "base_prefix", sys.prefix)))' 2>/dev/null
}

is_new_enough() {
  case "$1" in
    3.[0-9]' '* | 3.10' '* | [!3]*) return 1 ;;
    3.*) return 0 ;;
    *) return 1 ;;
  esac
}

# Sets `python` and `probed`, or ends with what is missing.
find_python() {
  local named="${AEENT_PYTHON:-${PYTHON:-}}" candidate found=""
  if [ -n "$named" ]; then
    probed="$(probe "$named")" ||
      fail "The Python that was named, $named, cannot be run; set" \
        "AEENT_PYTHON to one of version 3.11 or newer."
    is_new_enough "$probed" ||
      fail "Python 3.11 or newer is needed, and $named is Python" \
        "${probed%% *}; set AEENT_PYTHON to a newer one."
    python="$named"
    return
  fi
  for candidate in python3 python3.11 python3.12 python3.13 python; do
    probed="$(probe "$candidate")" || continue
    if is_new_enough "$probed"; then
      python="$candidate"
      return
    fi
    found="$found, found $candidate of version ${probed%% *}"
  done
  fail "Python 3.11 or newer is needed${found:-, found none}; install it, or" \
    "set AEENT_PYTHON to where it is."
}

# What an installation depends on; .venv cannot be moved, hence the path.
fingerprint() {
  printf '%s\n' "$root" "$probed"
  cksum <"$root/requirements.lock"
  cksum <"$root/pyproject.toml"
}

# Makes .venv anew, unless it is a whole one of the same Python.
make_venv() {
  if [ ! -e "$venv/.aeent-installing" ] &&
    [ "$(probe "$venv/bin/python")" = "$probed" ]; then
    return
  fi
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python lacks the venv module; on Debian or Ubuntu" \
      "'apt install python${probed%% *}-venv' brings it, then start again."
  say "Making $venv with Python ${probed%% *}."
  "$python" -m venv --clear "$venv" ||
    fail "$venv could not be made; see the message above."
}

unreachable='NewConnection|ConnectTimeout|ConnectionReset|NameResolution'
unreachable="$unreachable|Read timed out|ProxyError|SSLError|Max retries"
unreachable="$unreachable|from versions: none"

# Runs pip, with its output in a file that is shown only where it matters.
run_pip() {
  local log="$venv/install.log"
  "$venv/bin/python" -m pip --disable-pip-version-check \
    --retries "${PIP_RETRIES:-2}" install "$@" >>"$log" 2>&1 </dev/null &&
    return
  # "from versions: none" is all that pip says when told not to retry.
  if grep -qE "$unreachable" "$log"; then
    fail "The package index cannot be reached, or lacks a package; check the" \
      "network (and HTTPS_PROXY or PIP_INDEX_URL, if you need them), then" \
      "start again. Details: $log"
  fi
  tail -n 15 "$log" >&2
  fail "The installation failed, with the lines above from $log."
}

bootstrap() {
  local wanted began
  find_python
  wanted="$(fingerprint)"
  if [ "$(cat "$venv/.aeent-installed" 2>/dev/null)" = "$wanted" ]; then
    say "Using $venv, which is up to date."
    return
  fi
  make_venv
  began="$SECONDS"
  touch "$venv/.aeent-installing"
  rm -f "$venv/.aeent-installed"
  : >"$venv/install.log"
  say "Installing $(grep -c == "$root/requirements.lock") packages, about" \
    "1.1 GB; this takes a minute or a few."
  run_pip -r "$root/requirements.lock"
  run_pip --no-build-isolation --no-deps -e "$root"
  "$venv/bin/python" -c 'import aeent_jax, jax' ||
    fail "The installed packages cannot be imported; see the message above."
  printf '%s\n' "$wanted" >"$venv/.aeent-installed"
  rm -f "$venv/.aeent-installing"
  say "Installed in $((SECONDS - began)) s."
}

# The same, and what JAX needs for an accelerator: tpu, cuda12 or cuda13.
bootstrap_for() {
  local version
  bootstrap
  version="$("$venv/bin/python" -c 'import jax; print(jax.__version__)')"
  say "Installing JAX $version for $1, where it is missing."
  run_pip "jax[$1]==$version"
}
