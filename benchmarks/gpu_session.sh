#!/bin/bash
# On a machine with an NVIDIA GPU and Python 3.11 or newer: installs what training needs and measures it, in 8 minutes.
#   bash benchmarks/gpu_session.sh OUT.json              on a machine without a GPU: ... OUT.json --dry-run
set -euo pipefail
out=$(realpath -m "${1:?usage: gpu_session.sh OUT.json [--dry-run]}")
shift
cd "$(dirname "$0")/.."
environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
"${PYTHON:-python3}" -m venv "$environment"
version=$(sed -n 's/^jax==//p' constraints.txt)
extra="[cuda12]"
case " $* " in *" --dry-run "*) extra="" ;; esac
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[train]" "jax$extra==$version"
# JAX otherwise takes three quarters of the memory, less than the full size needs.
export XLA_PYTHON_CLIENT_MEM_FRACTION=0.95
timeout "${LIMIT_S:-460}" "$environment/bin/python" -m benchmarks.gpu_session "$out" "$@" || echo "ended early; $out holds what was measured" >&2
cat "$out"
