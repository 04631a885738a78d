# An interpreter and an environment, made once: shared by the launch commands.
#
#   source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
#   prepare [EXTRA...]
#
# leaves the repository's path in $root, goes there, and leaves in $python an
# interpreter that can import `basic` with these extras of setup.cfg. The
# environment is .venv, or .venv-3.13 when the caller sets PYTHON=python3.13.

set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"

fail() {
  printf '%s\n' "$*" >&2
  exit 1
}

version() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

judge() { # prints what is wrong with a version of Python, or nothing
  case "$1" in
    3.11 | 3.12 | 3.13) ;;
    2.* | 3.[0-9] | 3.10) echo "too old" ;;
    *) echo "too new" ;;
  esac
}

choose() { # sets $interpreter, $found and $venv
  local candidate verdict seen=""
  interpreter=""
  if [ -n "${PYTHON:-}" ]; then
    found="$(version "$PYTHON")" || fail \
      "PYTHON=$PYTHON does not run: name a Python 3.11, 3.12 or 3.13 that does."
    verdict="$(judge "$found")"
    [ -z "$verdict" ] || fail \
      "PYTHON=$PYTHON is Python $found, $verdict: basic needs 3.11, 3.12 or 3.13."
    interpreter="$PYTHON"
    case "$PYTHON" in # a relative path has to outlive the `cd` in `prepare`
      */*) interpreter="$(cd "$(dirname "$PYTHON")" && pwd)/${PYTHON##*/}" ;;
    esac
    venv=".venv-$found"
  else
    # A name on PATH may be a shim with no Python behind it, so each is run.
    for candidate in python3.11 python3.12 python3.13 python3; do
      found="$(version "$candidate")" || continue
      verdict="$(judge "$found")"
      if [ -z "$verdict" ]; then
        interpreter="$candidate"
        break
      fi
      seen=" ($candidate is $found, $verdict)"
    done
    [ -n "$interpreter" ] || fail "No Python 3.11, 3.12 or 3.13 runs" \
      "here$seen: install one, or name it with PYTHON=/path/to/python3.13."
    venv=".venv"
  fi
  "$interpreter" -c 'import ensurepip, venv' 2>/dev/null || fail \
    "$interpreter cannot make an environment, for it has no ensurepip: on" \
    "Debian or Ubuntu, install the package python$found-venv."
}

create() { # an environment does not survive a move or another interpreter
  local maker identity
  maker="$("$interpreter" -c \
    'import sys; print(sys.version.split()[0], sys.base_prefix)')"
  identity="$root $maker"
  if [ -e "$venv" ] && [ ! -e "$venv/made-for" ]; then
    fail "$root/$venv was not made by this script: move it away and try again."
  fi
  if [ "$(cat "$venv/made-for" 2>/dev/null)" = "$identity" ] &&
    "$python" -c 'import pip' 2>/dev/null; then
    return
  fi
  rm -rf "$venv"
  mkdir "$venv"
  printf '%s\n' "$identity" >"$venv/made-for"
  "$interpreter" -m venv "$venv" >&2 ||
    fail "$interpreter could not make $root/$venv: the lines above say why."
}

pip_install() {
  "$python" -m pip install --disable-pip-version-check --progress-bar off \
    -c constraints.txt "$@" >>"$venv/pip.log" 2>&1 && return
  tail -n 12 "$venv/pip.log" >&2
  fail "pip could not install '$*' into $venv: its last lines are above, all" \
    "of them in $venv/pip.log; run this command again once that is mended."
}

install() { # what is installed is what the stamp says, or there is no stamp
  local digest extras
  digest="$(cat setup.cfg pyproject.toml constraints.txt | cksum)"
  extras="$({
    sed -n 2p "$venv/stamp" 2>/dev/null || true
    printf '%s\n' "$@"
  } | tr ',' '\n' | sort -u | sed '/^$/d' | paste -s -d, -)"
  if [ "$(cat "$venv/stamp" 2>/dev/null)" = "$digest"$'\n'"$extras" ]; then
    return
  fi
  echo "Installing basic${extras:+[$extras]} into $venv; this takes minutes." >&2
  rm -f "$venv/stamp" "$venv/pip.log"
  # The build tools are pinned like the rest, so nothing builds in isolation.
  pip_install setuptools
  pip_install --no-build-isolation --editable ".${extras:+[$extras]}"
  printf '%s\n%s\n' "$digest" "$extras" >"$venv/stamp"
}

prepare() {
  choose
  cd "$root"
  python="$root/$venv/bin/python"
  create
  install "$@"
}
