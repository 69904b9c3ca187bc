#!/bin/sh
# Starts a SLURM of one node with two pretended GPUs in a folder: start.sh DIR
# Everything of it lies in DIR, and listens to this machine alone. Needs root, and of Debian:
# apt-get install slurm-wlm slurmdbd munge mariadb-server
set -eu
dir=$(realpath "$1")
host=$(hostname -s)
export SLURM_CONF="$dir/slurm.conf"
mkdir -p "$dir/munge" "$dir/state" "$dir/spool" "$dir/db"
chmod 755 "$dir" "$dir/munge"

cat > "$SLURM_CONF" <<END
ClusterName=trial
SlurmctldHost=$host(127.0.0.1)
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket,cred_expire=5
SlurmUser=root
SlurmctldPort=16817
SlurmdPort=16818
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0
GresTypes=gpu
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=16819
AccountingStoragePass=$dir/munge/socket
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
END
printf 'NodeName=%s Name=gpu File=/dev/null\nNodeName=%s Name=gpu File=/dev/zero\n' \
    "$host" "$host" > "$dir/gres.conf"
cat > "$dir/slurmdbd.conf" <<END
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
DbdHost=$host
DbdAddr=127.0.0.1
DbdPort=16819
SlurmUser=root
PidFile=$dir/slurmdbd.pid
LogFile=$dir/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=accounting
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
END
chmod 600 "$dir/slurmdbd.conf"

# The database: through a socket alone.
mariadb-install-db --no-defaults --user=root --datadir="$dir/db" --skip-test-db \
    --auth-root-authentication-method=normal > "$dir/db.log" 2>&1
mariadbd --no-defaults --user=root --datadir="$dir/db" --skip-networking \
    --socket="$dir/db.socket" --pid-file="$dir/db.pid" --innodb-buffer-pool-size=16M \
    >> "$dir/db.log" 2>&1 &

(umask 077; head -c 1024 /dev/urandom > "$dir/munge/key")
munged --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" \
    --pid-file="$dir/munge/pid" --log-file="$dir/munge/log" --seed-file="$dir/munge/seed"

# wait COMMAND: until it succeeds, for 30 seconds at most
wait_for() {
    tries=0
    until timeout 10 "$@" > /dev/null 2>&1; do
        tries=$((tries + 1))
        if [ "$tries" = 150 ]; then
            echo "start.sh: '$*' still fails after 30 s. See the logs in $dir." >&2
            exit 1
        fi
        sleep 0.2
    done
}
wait_for test -S "$dir/db.socket"
MYSQL_UNIX_PORT="$dir/db.socket" slurmdbd
wait_for sacctmgr -i list cluster
sacctmgr -i add cluster trial > /dev/null || true
slurmctld
slurmd
wait_for sh -c "sinfo --noheader --format=%T | grep -q '^idle'"
