#!/bin/bash
# Succeeds only if every served model has a version that is AVAILABLE.
#
# TensorFlow Serving answers 200 for a model that is still loading, or that failed to, so the state
# itself is read; its image has no curl, so bash speaks HTTP. Exits with 0 or 1, as Docker asks.
#
#   HEALTH_MODELS    names of models, separated by blanks [all those in HEALTH_CONFIG]
#   HEALTH_CONFIG    the server's model config file [/etc/serving/models.txt]
#   HEALTH_HOST      where REST listens [127.0.0.1]
#   HEALTH_PORT      [8501]
#   HEALTH_SECONDS   how long all of it may take [4]
set -u
host=${HEALTH_HOST:-127.0.0.1} port=${HEALTH_PORT:-8501} seconds=${HEALTH_SECONDS:-4}

fail() {
    echo "unhealthy: $1"
    exit 1
}

if [[ ${1-} != --within-time ]]; then
    timeout --kill-after=1 "$seconds" bash "$0" --within-time
    code=$?
    ((code <= 1)) || fail "no answer from $host:$port within $seconds s"
    exit "$code"
fi

names_in() { # the names of the models in a model config file
    local text name='(^|[^_[:alnum:]])name[[:space:]]*:[[:space:]]*["'\'']([^"'\'']+)'
    text=$(sed 's/#.*//' "$1") || return
    while [[ $text =~ $name ]]; do
        echo "${BASH_REMATCH[2]}"
        text=${text#*"${BASH_REMATCH[0]}"}
    done
}

ask() { # the server's answer about a model, with its head
    printf 'GET /v1/models/%s HTTP/1.0\r\nHost: %s\r\nConnection: close\r\n\r\n' "$1" "$host" >&3
    cat <&3
} 3<> "/dev/tcp/$host/$port"

config=${HEALTH_CONFIG:-/etc/serving/models.txt}
read -ra models <<< "${HEALTH_MODELS:-$(names_in "$config" | tr '\n' ' ')}"
((${#models[@]})) || fail "no model in $config; name them in HEALTH_MODELS"

for model in "${models[@]}"; do
    answer=$(ask "$model" 2> /dev/null) || fail "nothing listens at $host:$port"
    [[ $answer == HTTP/1.[01]' 200'* ]] || fail "$model: ${answer%%$'\r'*}"
    [[ $answer =~ '"state"'[[:space:]]*:[[:space:]]*'"AVAILABLE"' ]] ||
        fail "$model: no version is AVAILABLE"
done
echo "healthy: ${models[*]}"
