#!/usr/bin/env bash
# Everything that takes a GPU, in one call of at most nine minutes, run in the repository root.
#
#   scripts/gpu_session.sh [WHEELS] [OUT]
#
# WHEELS: a folder of wheels to install first, without an index; "" installs requirements.txt
# without torch, none installs nothing. OUT (results/bench/gpu): every part leaves its log and
# figures there.
#
# Parts: machine and versions; the GPU tests; steps of every method against the bare backbone, its
# products, PEFT and the Trainer in bf16 and fp32; a profile of single steps; a whole run of RTE, on
# the embedded data and a model of RoBERTa-base's and MPNet-base's shapes with drawn weights, beside
# the Trainer's; eight short runs at once on one GPU and one after the other, and eight runs'
# adapters in one pass; a run that is stopped half-way and resumed, beside one left alone. A part
# that fails or runs out of its time leaves the others alone; the exit code is 1 if any did. TOTAL_S
# (540 seconds) bounds the sum of them.
#
# DEVICE=cpu runs the same parts on the CPU with small models and few steps.
set -uo pipefail

WHEELS=${1-}
OUT=${2-results/bench/gpu}
DEVICE=${DEVICE-cuda}
TOTAL_S=${TOTAL_S-540}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
export CUBLAS_WORKSPACE_CONFIG=:4096:8 DORA_TEST_DEVICE=$DEVICE

if [ "$DEVICE" = cpu ]; then
    SIZES=(tiny) BATCH=4 LENGTHS=(8 16) ROUNDS="--rounds 1 --steps 1 --repeats 1"
    PROFILED=(--size tiny --steps 1) STEPS=60 TESTS=(-k "layer or dropout")
    RUN=(--model tiny_roberta --epochs 1) SHORT_STEPS=10 SEEDS=1,2
    GROUPED=(--size tiny --batch 4 --length 8 --rounds 1)
else
    SIZES=(base deberta_base) BATCH=32 LENGTHS=(64 128) ROUNDS="--rounds 5 --steps 2 --repeats 2"
    PROFILED=(--size base --steps 10) STEPS=600 TESTS=()
    RUN=(--model base --epochs 3) SHORT_STEPS=100 SEEDS=1,2,3,4,5,6,7,8
    GROUPED=(--size base --batch 16 32 --length 64 --rounds 10)
fi

mkdir -p "$OUT"
declare -a SUMMARY=()
FAILED=0

# part NAME SECONDS COMMAND...: runs the command within its time and the whole's. Its output goes to
# OUT/NAME.log too.
part() {
    local name=$1 limit=$2 left=$((TOTAL_S - SECONDS)) began=$SECONDS code
    shift 2
    [ "$DEVICE" = cpu ] && limit=$left  # a small machine takes longer; the whole's time holds
    [ "$left" -lt "$limit" ] && limit=$left
    echo "== $name (at most $limit s)"
    if [ "$limit" -le 0 ]; then
        code=124
    else
        timeout --kill-after=5 "$limit" "$@" 2>&1 | tee "$OUT/$name.log"
        code=${PIPESTATUS[0]}
    fi
    SUMMARY+=("$(printf '%-20s exit %3d  %4d s' "$name" "$code" $((SECONDS - began)))")
    [ "$code" -eq 0 ] || FAILED=1
}

install() {
    case $WHEELS in
        none) ;;
        "") python -m pip install --quiet --requirement <(grep -v '^torch==' requirements.txt) ;;
        *) python -m pip install --quiet --no-index --no-deps --find-links "$WHEELS" "$WHEELS"/*.whl ;;
    esac
}

where() {
    [ "$DEVICE" = cpu ] || nvidia-smi || return
    git rev-parse HEAD || echo "not a git checkout"
    git status --short
    python -c '
import torch
from dora.files import to_json
from dora.records.provenance import provenance
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
print(to_json({**provenance(), "cuda": torch.version.cuda, "gpu": gpu}))'
}

bench() { # NAME PRECISIONS LENGTH WORDS...
    local rounds precisions
    read -ra rounds <<< "$ROUNDS"
    read -ra precisions <<< "$2"
    python -m dora.bench --device "$DEVICE" --precision "${precisions[@]}" --batch "$BATCH" \
        --length "$3" "${rounds[@]}" --to "$OUT/$1.json" "${@:4}"
}

# run FOLDER: a run with its results there; two of them must be equal. exec: a signal reaches Python.
run() {
    exec python -m dora.run task=sst2 data=mini model=tiny_roberta method=dora \
        device="$DEVICE" max_steps="$STEPS" results="$OUT/runs/$1"
}

# Lets one run alone, stops another half-way, resumes it, and compares all their files.
resume() {
    rm -rf "$OUT/runs"
    (run whole) || return
    (run cut) &
    local pid=$! code=0 file
    # A line of training loss comes every 10 steps: STEPS / 20 of them are half the run.
    until [ "$(cat "$OUT"/runs/cut/runs/*/*/*/*/*/*/s*/metrics.jsonl 2> /dev/null \
        | grep -c '"train"')" -ge $((STEPS / 20)) ]; do
        kill -0 "$pid" 2> /dev/null || break
        sleep 0.05
    done
    kill -TERM "$pid" 2> /dev/null
    wait "$pid" || code=$?
    [ "$code" -eq 75 ] || { echo "stopped with exit $code instead of 75"; return 1; }
    (run cut) || return
    code=0
    cd "$OUT/runs/whole/runs/" || return
    for file in */*/*/*/*/*/s*/{metrics,ranks}.jsonl */*/*/*/*/*/s*/best.safetensors; do
        if cmp "$file" "../../cut/runs/$file"; then echo "same: $file"; else code=1; fi
    done
    return "$code"
}

# seconds WHAT COMMAND...: prints the wall seconds that the command takes.
seconds() {
    local began=$EPOCHREALTIME code=0
    "${@:2}" > /dev/null || code=$?
    python -c "print(f'{$EPOCHREALTIME - $began:.1f} s: $1')"
    return "$code"
}

short() { # WORDS...: short runs of RTE with one thread each, on a model with drawn weights
    python -m dora.run task=rte data=mini method=lora precision=bf16 threads=1 device="$DEVICE" \
        model=roberta_base model.path="$OUT/many/model" results="$OUT/many" \
        max_steps="$SHORT_STEPS" eval_every="$SHORT_STEPS" "$@"
}

at_once() {
    local pids=() pid seed code=0
    for seed in ${SEEDS//,/ }; do
        short seed="$seed" & pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
    return "$code"
}

# Short runs as a process for each at once, and as one sweep in one process, which starts up once.
many() { # SIZE
    rm -rf "$OUT/many"
    python -c "
import sys
from pathlib import Path
from dora.timing.whole_run import save_drawn
save_drawn(sys.argv[1], Path(sys.argv[2]))" "$1" "$OUT/many/model" || return
    short seed=9 || return  # tokenised data and caches of files
    seconds "seeds $SEEDS, a process for each at once" at_once || return
    # As many other seeds, or the runs would be done: 11,12,...
    seconds "as many runs in turn, in one process" short -m seed="1${SEEDS//,/,1}"
}

# `timeout` starts commands, not functions of this shell.
export WHEELS OUT DEVICE BATCH ROUNDS STEPS SHORT_STEPS SEEDS
export -f install where bench run resume seconds short at_once many
call() { # NAME SECONDS FUNCTION WORDS...: a part that is a function
    part "$1" "$2" bash -c '"$@"' - "${@:3}"
}

SHORT=${LENGTHS[0]} LONG=${LENGTHS[1]}
SOME=(full lora "adalora before" "dora before" "dora after" "PEFT LoRA")
call install 90 install
call where 30 where
part tests 100 python -m pytest -m gpu tests/test_gpu.py tests/backbones/test_architectures.py -rs "${TESTS[@]}"
call "bench-bf16-${SIZES[0]}" 120 bench "bench-bf16-${SIZES[0]}" bf16 "$SHORT" \
    --size "${SIZES[0]}" --dropout 0.1
part profile 50 python scripts/profile_step.py --device "$DEVICE" --precision bf16 \
    --batch "$BATCH" --length "$LONG" --only lora "adalora before" "dora before" full \
    "${PROFILED[@]}" --to "$OUT/profile.txt"
part whole-run 150 python -m dora.bench --run --data mini --device "$DEVICE" --precision bf16 \
    "${RUN[@]}" --repeats 1 --threads 1 --to "$OUT/whole-run.json"
part grouped 60 python scripts/grouped.py --device "$DEVICE" --precision bf16 "${GROUPED[@]}" \
    --to "$OUT/grouped.json"
call many 120 many "${SIZES[0]}"
call resume 100 resume
# Each size in a call of its own: a call that runs out of its time writes no figures.
for size in "${SIZES[@]}"; do
    call "bench-both-$size-long" 80 bench "bench-both-$size-long" "bf16 fp32" "$LONG" \
        --size "$size" --dropout 0 --only "${SOME[@]}"
done
for size in "${SIZES[@]:1}"; do
    call "bench-bf16-$size" 120 bench "bench-bf16-$size" bf16 "$SHORT" --size "$size" --dropout 0.1
done
call memory 90 bench memory bf16 "$LONG" --size "${SIZES[0]}" --dropout 0 \
    --only lora "dora before" --memory

printf '%s\n' "== summary" "${SUMMARY[@]}" | tee "$OUT/summary.txt"
exit "$FAILED"
