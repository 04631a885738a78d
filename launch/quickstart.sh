#!/usr/bin/env bash
# From a checkout to zero-shot and retrieval results on handwritten digits:
#
#   bash launch/quickstart.sh [arguments of basic.train]
#
# PYTHON=python3.13 chooses the interpreter, EXTRAS=cuda adds an extra of
# setup.cfg. The second run installs nothing.

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare ${EXTRAS:-}
exec "$python" -m basic.train \
  --config configs/digits.py --workdir runs/digits "$@"
