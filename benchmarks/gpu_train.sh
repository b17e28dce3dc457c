#!/usr/bin/env bash
# Train on a machine with one GPU that is at hand for minutes, has torch and no network, and takes little at a time.
#
#   here:   benchmarks/gpu_train.sh prepare PACKED          clips in parts and wheels, to build/gpu
#   there:  benchmarks/gpu_train.sh setup                   installs this package by build/gpu/wheels
#           benchmarks/gpu_train.sh receive                 keeps the parts that have come; once a copy
#           benchmarks/gpu_train.sh train MINUTES LIMIT OUT [OPTIONS of mtslvr train]
#   here:   benchmarks/gpu_train.sh join OUT CHECKPOINT     what came back to a checkpoint folder
#
# For two copies of 64 MiB and 12 minutes in all, two commands are enough, the second at once after the first:
#
#   carrying build/gpu/wheels and build/gpu/parts/part-0.tar:
#     benchmarks/gpu_train.sh setup && benchmarks/gpu_train.sh receive
#   carrying build/gpu/parts/part-1.tar:
#     benchmarks/gpu_train.sh receive && benchmarks/gpu_train.sh train 7.5 580 OUT --config benchmarks/gpu_recipe.json
#
# MINUTES is how long all steps together take: 20 steps are timed and the schedule is set by them. LIMIT is after how
# many seconds `train` ends: decoding, timing and heads take about 2 minutes more than the steps, and the next `train`
# with the same arguments goes on. OUT gets the record of the run and, in files below 16 MiB, the checkpoint.
# PYTHON is the interpreter; KBPS, SECONDS_OF_CLIP, PARTS and PART_MIB say what `prepare` makes of the clips, see
# recode.py; PYTHON_THERE is the version of Python of the other machine, such as 3.12.
#
# A step of 128 clips is about 3,500 calls of the GPU for crops and augmentation and 1,500 for the network, whose
# arithmetic takes it 5 ms: starting them takes 50 ms, whatever the batch. So batches are large in gpu_recipe.json. Its
# heads compare crops of 1 s, since the clips are cut to 1.5 s.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
packages=(soundfile soxr cffi pycparser hatchling pathspec pluggy packaging trove-classifiers editables
          huggingface-hub safetensors click tqdm filelock)

case ${1:?prepare, setup, receive, train or join} in
prepare)
    rm -rf build/gpu && mkdir -p build/gpu/wheels
    "$python" benchmarks/recode.py make "${2:?packed clips}" build/gpu/parts --kbps "${KBPS:-12}" \
        --seconds "${SECONDS_OF_CLIP:-1.5}" --parts "${PARTS:-2}" --part-mib "${PART_MIB:-56}"
    version=()
    if [ -n "${PYTHON_THERE:-}" ]; then
        version=(--python-version "$PYTHON_THERE")
        for glibc in 2_28 2_27 2_24 2_17; do version+=(--platform "manylinux_${glibc}_x86_64"); done
        version+=(--platform manylinux2014_x86_64)
    fi
    "$python" -m pip download -q --no-deps --only-binary=:all: "${version[@]}" -d build/gpu/wheels "${packages[@]}"
    du -sh build/gpu/wheels build/gpu/parts/*
    ;;
setup)
    for package in "${packages[@]}"; do # what is there already stays as it is
        "$python" -m pip show -q "$package" 2> /dev/null ||
            "$python" -m pip install -q --no-index --no-deps --find-links build/gpu/wheels "$package"
    done
    "$python" -m pip install -q --no-index --no-deps --no-build-isolation -e .
    "$python" -c 'import torch, mtslvr; print(torch.__version__, torch.cuda.is_available(), mtslvr.__file__)'
    ;;
receive)
    mkdir -p build/gpu-parts
    for part in build/gpu/parts/part-*.tar; do
        tar -xf "$part" -C build/gpu-parts && rm "$part"
    done
    find build/gpu-parts -name '*.opus' | wc -l
    ;;
train)
    minutes=${2:?minutes} limit=${3:?seconds} out=${4:?folder for what comes back} run=build/gpu-run
    shift 4
    mkdir -p "$out"
    [ -e build/gpu-packed/clips.json ] ||
        "$python" benchmarks/recode.py join build/gpu-parts build/gpu-packed --threads "$(nproc)"
    how=(--data build/gpu-packed --minutes "$minutes" "$@")
    [ -e $run/config.json ] && how=(--resume)
    # An interrupt ends the run after its last saved state; heads are made when the schedule has ended.
    timeout --signal=INT "$limit" \
        "$python" -m mtslvr.cli.main train --out $run --save-every "${SAVE_EVERY:-200}" "${how[@]}" ||
        echo "not done yet (exit $?): the same command goes on"
    cp $run/config.json $run/environment.json $run/losses.csv "$out"
    [ ! -e $run/checkpoint ] || { cp $run/checkpoint/config.json "$out/encoder.json" &&
        split -b 15M -d $run/checkpoint/model.safetensors "$out/model.safetensors-"; }
    tail -n 1 "$out/losses.csv"
    ;;
join)
    from=${2:?folder that came back} to=${3:?checkpoint folder}
    mkdir -p "$to"
    cat "$from"/model.safetensors-* > "$to/model.safetensors"
    cp "$from/encoder.json" "$to/config.json"
    "$python" -c "import mtslvr, sys; print(mtslvr.load(sys.argv[1]).config)" "$to"
    ;;
*)
    echo "$1: not one of prepare, setup, receive, train, join" >&2
    exit 2
    ;;
esac
