#!/usr/bin/env bash
# Checks the project: lint, then tests.
#
#   bash launch/test.sh              all but the slow tests
#   bash launch/test.sh --all        all tests
#   bash launch/test.sh -k channel   what follows goes to pytest
#   bash launch/test.sh -n 0         all in one process, not one per core
#
# Makes .venv and installs into it where needed; see bootstrap.sh.
set -euo pipefail
# shellcheck source=launch/bootstrap.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/bootstrap.sh"

selection=(-m "not slow")
if [ "${1:-}" = --all ]; then
  selection=(-m "slow or not slow")
  shift
fi

# A file stays in one process, which shares its fixtures and programs. Each
# process takes up to 2 GB and compiles with several threads: hence the limit.
workers=(-n logical --maxprocesses=4 --dist loadfile)

bootstrap
cd -- "$root"
say "Checking style with ruff."
"$venv/bin/python" -m ruff check
"$venv/bin/python" -m ruff format --check --quiet
say "Running the tests."
exec "$venv/bin/python" -m pytest "${workers[@]}" "${selection[@]}" "$@"
