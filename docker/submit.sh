#!/usr/bin/env bash
# Sends a sweep to a running Ray cluster as a job, with this checkout's code:
#
#   RAY_ADDRESS=http://127.0.0.1:8265 RAY_AUTH_TOKEN=... docker/submit.sh --output /runs/first [OPTION...]
#
# The options are those of pipelines/lambda_sweep.py. The cluster's nodes need the project's dependencies (they have
# them in the image), not its code. Ctrl-C leaves the job running; `ray job stop` ends it.
set -euo pipefail

die() {
    echo "submit.sh: $1" >&2
    exit 2
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -n "${VENV:-}" ]; then PATH="$VENV/bin:$PATH"; elif [ -d "$root/.venv" ]; then PATH="$root/.venv/bin:$PATH"; fi
command -v ray > /dev/null || die "there is no ray command; run make install, or name an environment: VENV=DIR"
case "${RAY_ADDRESS:-}" in
    http://* | https://*) ;;
    *) die "RAY_ADDRESS must be the address of the cluster's dashboard, as http://127.0.0.1:8265, got '${RAY_ADDRESS:-}'" ;;
esac

# The job runs in a copy of the code that is thrown away, and so would be an output directory relative to it.
output=
previous=
for word in "$@"; do
    if [ "$previous" = --output ]; then output=$word; fi
    case "$word" in --output=*) output=${word#--output=} ;; esac
    previous=$word
done
case "$output" in
    /*) ;;
    *) die "--output must be an absolute path that all nodes see, got '$output'" ;;
esac

# What is sent is listed here, so that nothing else can slip in: no .git, runs, data, keys.
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
cd "$root"
find easrec sweeps pipelines -name '*.py' -exec cp --parents -t "$stage" {} +
cp pyproject.toml LICENSE "$stage"

# The token is that of RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.
export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"
cd /
ray job submit --address "$RAY_ADDRESS" --working-dir "$stage" -- \
    python pipelines/lambda_sweep.py --ray-address auto "$@"
