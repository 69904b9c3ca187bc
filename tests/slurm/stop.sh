#!/bin/sh
# Stops what start.sh started: stop.sh DIR
set -u
dir=$(realpath "$1")
export SLURM_CONF="$dir/slurm.conf"
scancel --signal=KILL --full --user=root 2> /dev/null
scancel --user=root 2> /dev/null
sleep 1
for pid in slurmd.pid slurmctld.pid slurmdbd.pid munge/pid db.pid; do
    number=$(cat "$dir/$pid" 2> /dev/null) || continue
    kill "$number" 2> /dev/null
    tries=0
    while kill -0 "$number" 2> /dev/null && [ "$tries" -lt 50 ]; do
        tries=$((tries + 1))
        sleep 0.2
    done
    kill -KILL "$number" 2> /dev/null
done
true
