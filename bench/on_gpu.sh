#!/bin/sh
# All that waits for an NVIDIA GPU, step by step:
#
#   sh bench/on_gpu.sh [setup|test|parity|tune|bench] [PART]
#
# Without a step all of them in turn. setup: a virtual environment in .venv, from the wheels in the
# folder $WHEELS where that is set, else from PyPI. tune: PART is dense, embedding, bag or softmax;
# it stops after $LIMIT seconds (540) and goes on from there when it is started again. bench: PART is
# dense, embedding or bag. Records, trials and results go to $OUT (bench/results/cuda): what is to be
# kept lies in $OUT/records and $OUT/*.json.
set -eu
cd "$(dirname "$0")/.."
step=${1:-all} part=${2:-}
out=${OUT:-bench/results/cuda}
python=${PYTHON:-python3}
if [ "$step" != setup ] && [ "$step" != all ] && [ -x .venv/bin/python ]; then
  python=${PYTHON:-.venv/bin/python}
fi

setup() {
  "$python" -m venv --system-site-packages .venv  # for a torch that is there already
  if [ -n "${WHEELS:-}" ]; then
    .venv/bin/python -m pip install --quiet --no-index --find-links "$WHEELS" -e ".[tune,cuda]" pytest pytest-xdist hypothesis
  else
    .venv/bin/python -m pip install --quiet -e ".[dev,cuda]"
  fi
  python=.venv/bin/python
}

# Tests would be skipped, which is no success here.
check_gpu() {
  "$python" - <<'CHECK'
import sys
import torch
from tvmlayers import TvmLayersError, targets

try:
    print(targets.resolve("cuda").name)
except TvmLayersError as error:
    sys.exit(f"on_gpu.sh: {error}")
if not torch.cuda.is_available():
    sys.exit("on_gpu.sh: this build of torch has no CUDA")
CHECK
}

test_on_gpu() {
  check_gpu
  "$python" -m pytest -q -m gpu tests/gpu
}

parity() {
  check_gpu
  TVMLAYERS_TEST_DEVICE=cuda "$python" -m pytest -q -n "${WORKERS:-8}" \
    tests/parity/test_parity_embedding.py tests/parity/test_parity_bag.py \
    tests/parity/test_parity_dense.py tests/parity/test_parity_activations.py \
    tests/parity/test_parity_models.py tests/parity/test_parity_shapes.py
}

tune() {
  status=0
  timeout -s INT "${LIMIT:-540}" "$python" schedules/tune_cuda.py --effort quick \
    --records "$out/records" --work-dir "$out/trials" ${part:+--kinds "$part"} || status=$?
  if [ "$status" = 124 ]; then
    echo "time is up, all trials are kept: the same command goes on from them" >&2
  fi
  return "$status"
}

bench() {
  TVMLAYERS_RECORDS="$out/records" "$python" -m bench cuda ${part:+--kind "$part"} \
    --json "$out/cuda${part:+-$part}.json"
}

mkdir -p "$out"
case $step in
  setup | parity | tune | bench) "$step" ;;
  test) test_on_gpu ;;
  all) setup && test_on_gpu && parity && tune && bench ;;
  *) echo "on_gpu.sh: a step is setup, test, parity, tune or bench, got $step" >&2; exit 2 ;;
esac
