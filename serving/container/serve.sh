#!/bin/bash
# Runs tensorflow_model_server with the given flags, and stops it in order.
#
# The server handles no signal: as process 1 of a container it ignores SIGTERM until it is killed,
# and as any other it dies of it with its requests. So this script is process 1. At SIGTERM or
# SIGINT the server goes on for DRAIN_SECONDS (5), in which load balancers turn away and requests
# end; then it is stopped, and that is a success. A second signal stops it at once.
set -u

stop() {
    server=${!:-} # not noted after its start: a signal may come in between
    trap 'kill -KILL "$server" 2> /dev/null' TERM INT
    [[ -n $server ]] || exit 0
    sleep "${DRAIN_SECONDS:-5}" &
    wait -n "$server" $! # until the time is over, the server is, or a second signal comes
    kill -TERM "$server" $! 2> /dev/null
    wait "$server"
    exit 0
}
trap stop TERM INT

tensorflow_model_server "$@" &
wait $!
