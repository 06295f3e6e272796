#!/bin/sh
# All that waits for an NVIDIA GPU, in one go: sh bench/on_gpu.sh [folder for the results]
set -eu
cd "$(dirname "$0")/.."
results=${1:-bench/results/cuda}
mkdir -p "$results"
python -m pytest -q -m gpu tests/gpu
TVMLAYERS_TEST_DEVICE=cuda python -m pytest -q \
  tests/parity/test_parity_embedding.py tests/parity/test_parity_bag.py \
  tests/parity/test_parity_dense.py tests/parity/test_parity_activations.py \
  tests/parity/test_parity_models.py tests/parity/test_parity_shapes.py
python schedules/tune_cuda.py --effort quick
python -m bench cuda --json "$results/cuda.json"
