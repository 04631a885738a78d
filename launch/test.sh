#!/usr/bin/env bash
# Checks style and types, then runs every test, on the CPU, two at a time:
#
#   bash launch/test.sh [--without parity] [arguments of pytest]
#
# PYTHON=python3.13 chooses the interpreter. `--without parity` leaves torch out
# of a new environment, and with it the tests that compare with foreign weights.

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

extras="test"
if grep -q '^parity *=' "$root/setup.cfg"; then
  extras="test parity"
fi
if [ "${1:-}" = "--without" ]; then
  [ "${2:-}" = "parity" ] ||
    fail "--without takes 'parity', not '${2:-}': nothing else can be left out."
  extras="test"
  shift 2
fi

prepare $extras
# Collectives between virtual devices dead-lock on jax 0.10.2 when its thread
# pool, as large as the machine has cores, has no room for all of them.
export JAX_PLATFORMS=cpu NPROC="${NPROC:-16}"
"$python" -m ruff check --quiet . ||
  fail "ruff found what is said above; much of it, \`ruff check --fix\` mends."
types="$("$python" -m basedpyright --pythonpath "$python" 2>&1)" || {
  printf '%s\n' "$types" >&2
  fail "basedpyright found the errors above; mend the types, without comments" \
    "that ignore them."
}
exec "$python" -m pytest -n 2 "$@"
