#!/usr/bin/env bash
# A real SLURM of one node on this machine, for tests; needs root and Debian's slurm-wlm and munge.
#
#   scripts/slurm_one_node.sh install          the packages (apt-get)
#   scripts/slurm_one_node.sh up FOLDER        starts it, everything it writes under FOLDER
#   scripts/slurm_one_node.sh down FOLDER      stops it
#
# After `up`: export SLURM_CONF=FOLDER/slurm.conf PATH=FOLDER/bin:$PATH. Partitions: debug, low, and
# high, which preempts low and requeues it. FOLDER/bin/sacct answers submitit's question for job
# states, which SLURM itself answers only with an accounting database.
set -euo pipefail

install() {
    command -v slurmctld munged > /dev/null && return
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        slurm-wlm munge > /dev/null
}

up() {
    local host cpus memory
    host=$(hostname)
    cpus=$(nproc --all) # without --all it is OMP_NUM_THREADS where that is set
    memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.8)}' /proc/meminfo)
    mkdir -p "$D"/{munge,state,spool,log,bin}
    chmod 700 "$D/munge"
    head -c 1024 /dev/urandom > "$D/munge/munge.key"
    chmod 600 "$D/munge/munge.key"
    # A requeued job waits for as long as a credential lives: 2 minutes unless told otherwise.
    cat > "$D/slurm.conf" << EOF
ClusterName=dora
SlurmctldHost=localhost(127.0.0.1)
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket=$D/munge/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
SlurmctldPort=16817
SlurmdPort=16818
SlurmctldPidFile=$D/slurmctld.pid
SlurmdPidFile=$D/slurmd.pid
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdLogFile=$D/log/slurmd.log
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
MailProg=/bin/true
JobRequeue=1
KillWait=5
MinJobAge=3600
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
NodeName=localhost NodeHostname=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory
PartitionName=debug Nodes=localhost Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
PartitionName=low Nodes=localhost MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=high Nodes=localhost MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
EOF
    cat > "$D/bin/sacct" << 'EOF'
#!/usr/bin/env bash
# submitit asks: sacct -o JobID,State,NodeList --parsable2 -j ID [-j ID ...]
echo "JobID|State|NodeList"
while [ $# -gt 0 ]; do
    if [ "$1" = -j ]; then
        scontrol --oneliner show job "$2" 2> /dev/null | awk '{
            split("", v)
            for (i = 1; i <= NF; i++) {
                at = index($i, "=")
                v[substr($i, 1, at - 1)] = substr($i, at + 1)
            }
            id = ("ArrayJobId" in v) ? v["ArrayJobId"] "_" v["ArrayTaskId"] : v["JobId"]
            print id "|" v["JobState"] "|" v["NodeList"]
        }'
        shift
    fi
    shift
done
EOF
    chmod +x "$D/bin/sacct"
    munged --force --num-threads=2 --key-file="$D/munge/munge.key" \
        --socket="$D/munge/munge.socket" --pid-file="$D/munge/munged.pid" \
        --log-file="$D/log/munged.log" --seed-file="$D/munge/munged.seed"
    slurmctld -f "$D/slurm.conf"
    slurmd -f "$D/slurm.conf" -N localhost
    for _ in $(seq 100); do
        [ "$(SLURM_CONF=$D/slurm.conf sinfo -h -p debug -o %T 2> /dev/null)" = idle ] && return
        sleep 0.1
    done
    tail -n 20 "$D"/log/*.log >&2
    echo "slurm did not come up" >&2
    return 1
}

down() {
    local file
    SLURM_CONF=$D/slurm.conf scancel --full --user="$(id -un)" 2> /dev/null || true
    for file in "$D/slurmd.pid" "$D/slurmctld.pid" "$D/munge/munged.pid"; do
        if [ -f "$file" ]; then kill "$(cat "$file")" 2> /dev/null || true; fi
    done
}

case "${1:-}" in
    install) install ;;
    up | down) D=$(realpath -m "${2:?the folder}"); "$1" ;;
    *) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
