#!/bin/bash
# Refuses to build an image around models that its server could not serve.
#
#   check_models.sh FOLDER    laid out as FOLDER/NAME/<integer version>/saved_model.pb
set -u
shopt -s nullglob extglob
folder=$1

fail() {
    echo "check_models.sh: $1" >&2
    exit 1
}

[[ -d $folder/encoder ]] ||
    fail "models/encoder is missing: python -m serving.export RUN --to models/encoder"
# Releases to two numbers: patches of TensorFlow change no operation, and not each has an image.
server=$(tensorflow_model_server --version | sed -n 's/^TensorFlow Library: \([0-9]*\.[0-9]*\).*/\1/p')

for model in "$folder"/*/; do
    graphs=("$model"+([0-9])/saved_model.pb)
    ((${#graphs[@]})) || fail "$model holds no version: expected ${model}1/saved_model.pb"
    for graph in "${graphs[@]}"; do
        # Fields 5 and 6 of MetaInfoDef, one after the other: TensorFlow's version and git's.
        writer=$(LC_ALL=C grep -m1 -aoP '\d+\.\d+(?=\.\d+[-\w.]*2.(v\d|unknown))' "$graph")
        echo "$graph: TensorFlow ${writer:-unknown}, the server's ${server:-unknown}"
        newest=$(printf '%s\n' "${writer:-0}" "${server:-$writer}" | sort -V | tail -n 1)
        [[ $newest == "${server:-$writer}" ]] ||
            fail "$graph is newer than its server: build with TF_SERVING_VERSION=$writer.0 or above"
    done
done
