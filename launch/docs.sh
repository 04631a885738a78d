#!/usr/bin/env bash
# Builds the documentation, with a reference of all plug-ins and settings:
#
#   bash launch/docs.sh [arguments of sphinx-build]
#
# and says where its first page is. It is read from disk, without a server.

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare docs
JAX_PLATFORMS=cpu "$python" -m sphinx --fail-on-warning --keep-going --quiet \
  -b html -d build/docs/trees docs build/docs/html "$@"
echo "build/docs/html/index.html"
