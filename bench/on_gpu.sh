#!/bin/sh
# All that waits for an NVIDIA GPU, a step at a time:
#
#   sh bench/on_gpu.sh [setup | test | parity [FILE] | tune [KIND] | bench [KIND[:DTYPE]]]
#
#   setup   a virtual environment with what the other steps need
#   test    the tests that need a GPU; they fail where there is none
#   parity  the parity tests of all layers on it; FILE: dense, bag, ..., one of tests/parity
#   tune    the public cases, all or of a KIND: dense, embedding, bag, softmax
#   bench   python -m bench cuda, all or a KIND: dense, embedding, bag; DTYPE: of dense layers
#
# Without a step all of them, one after the other. Variables:
#   PYTHON   python3; it is used itself unless there is a virtual environment
#   VENV     .venv: where setup makes it
#   WHEELS   a folder of wheels that setup installs from, for a machine without a registry
#   OUT      bench/results/cuda: the folder of records, of the tuning journal and of the results
#   EARLIER  a folder that another run had as OUT: copied there first, so that tune and bench go on
#   LIMIT    seconds after which tune, or a part of bench, ends: 540, and 0 for none as without a
#            step. The status is then 3: the same call again goes on where it was
#   EFFORT   of tuning: quick (16 trials of each case), standard or thorough
#   JOBS     processes of the parity tests, 4
#   DRY_RUN  if not empty, commands are printed only
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} VENV=${VENV:-.venv} OUT=${OUT:-bench/results/cuda}
EFFORT=${EFFORT:-quick} JOBS=${JOBS:-4} DRY_RUN=${DRY_RUN:-}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
failed=0
PARITY="embedding bag dense activations models shapes chain calls eager timed"

refuse() {
  echo "on_gpu.sh: $1; sh bench/on_gpu.sh --help" >&2
  exit 2
}

one_of() { # WHAT WORD CHOICES
  case " $3 " in *" $2 "*) ;; *) refuse "expected $1 of $3, got $2" ;; esac
}

run() {
  echo "+ $*"
  [ -n "$DRY_RUN" ] || "$@"
}

python() {
  if [ -x "$VENV/bin/python" ]; then run "$VENV/bin/python" "$@"; else run "$PYTHON" "$@"; fi
}

limited() { # a command of Python that goes on where it was; status 3 where the limit ended it
  interpreter=$PYTHON status=0
  [ ! -x "$VENV/bin/python" ] || interpreter=$VENV/bin/python
  run timeout --signal=INT --kill-after=30 "$LIMIT" "$interpreter" "$@" || status=$?
  case $status in
  0) ;;
  3 | 124 | 130 | 137)
    echo "on_gpu.sh: stopped by the limit of $LIMIT s; the same call again goes on" >&2
    exit 3 ;;
  *) failed=$status ;; # a wrong result, say: what is left is measured all the same
  esac
}

setup() {
  run "$PYTHON" -m venv --system-site-packages "$VENV"
  # Made from within another virtual environment it would not see that one's packages, torch say.
  share='import sys, sysconfig as s; place = s.get_path("purelib", vars={"base": sys.argv[1]}); '
  share=$share'outer = s.get_path("purelib") if sys.prefix != sys.base_prefix else ""; '
  run "$PYTHON" -c "$share"'open(place + "/outer.pth", "w").write(outer)' "$VENV"
  set -- pytest pytest-xdist hypothesis -e ".[tune,cuda,torch]"
  # The folder holds what `pip wheel` makes of these, hatchling and editables.
  [ -z "${WHEELS:-}" ] || set -- --no-index --find-links "$WHEELS" "$@"
  run "$VENV/bin/pip" install "$@"
}

tests() {
  TVMLAYERS_TEST_DEVICE=cuda python -m pytest -q -m gpu tests/gpu
}

parity() {
  files=
  for name in ${1:-$PARITY}; do
    one_of "a file" "$name" "$PARITY"
    files="$files tests/parity/test_parity_$name.py"
  done
  TVMLAYERS_TEST_DEVICE=cuda python -m pytest -q -n "$JOBS" $files
}

tune() {
  if [ -n "${1:-}" ]; then
    one_of "a kind" "$1" "dense embedding bag softmax"
    set -- --kinds "$1"
  fi
  limited schedules/tune_cuda.py --effort "$EFFORT" \
    --records "$OUT/records" --work-dir "$OUT/tuning" "$@"
}

bench() {
  for part in ${1:-dense:float32 dense:float16 dense:bfloat16 embedding bag}; do
    kind=${part%%:*}
    one_of "a kind" "$kind" "dense embedding bag"
    set -- --kind "$kind" --json "$OUT/$(echo "$part" | tr : -).json" --resume
    if [ "$part" != "$kind" ]; then
      [ "$kind" = dense ] || refuse "only dense layers are timed in other dtypes, got $part"
      one_of "a dtype" "${part#*:}" "float32 float16 bfloat16"
      set -- "$@" --dtype "${part#*:}"
    fi
    # No case begins in the last third: torch's autotuning of one can take a minute and more.
    [ "$LIMIT" = 0 ] || set -- "$@" --budget $((LIMIT * 2 / 3))
    TVMLAYERS_RECORDS=$OUT/records limited -m bench cuda "$@"
  done
}

step=${1:-all} part=${2:-}
case $step in
-h | --help) sed -n '2,/^set -eu/{/^set -eu/!s/^# \{0,1\}//p;}' bench/on_gpu.sh; exit 0 ;;
esac
one_of "a step" "$step" "all setup test parity tune bench"
[ $# -le 2 ] || refuse "expected a step and one part of it, got $*"
case $step in setup | test) [ -z "$part" ] || refuse "$step has no parts, got $part" ;; esac
if [ "$step" = all ]; then LIMIT=${LIMIT:-0}; else LIMIT=${LIMIT:-540}; fi
case $LIMIT in '' | *[!0-9]*) refuse "LIMIT is a whole number of seconds, got $LIMIT" ;; esac
if [ -n "${EARLIER:-}" ]; then
  [ -d "$EARLIER" ] || refuse "EARLIER is a folder, and there is none at $EARLIER"
  [ -n "$DRY_RUN" ] || { mkdir -p "$OUT"; cp -R "$EARLIER/." "$OUT/"; }
fi
[ -n "$DRY_RUN" ] || mkdir -p "$OUT"
case $step in
all) setup; tests; parity; tune; bench ;;
test) tests ;;
*) "$step" "$part" ;;
esac
exit "$failed"
