#!/usr/bin/env bash
# A SLURM cluster of one node on this machine: Debian's packages, no systemd, no cgroups, no accounting. For `make
# test-slurm`; needs root. tests/slurm.sh start | stop
set -euo pipefail
NODE=$(hostname -s)
CORES=$(nproc)

install() {
    command -v slurmctld slurmd sbatch munged > /dev/null && return
    command -v apt-get > /dev/null || { echo "no apt-get: this needs Debian or a relative of it" >&2; exit 77; }
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge > /dev/null \
        || { echo "slurm can't be installed" >&2; exit 77; }
}

start() {
    [ "$(id -u)" = 0 ] || { echo "not root: SLURM can't be started" >&2; exit 77; }
    install
    mkdir -p /etc/slurm /var/spool/slurmctld /var/spool/slurmd /var/log/slurm /run/munge
    [ -s /etc/munge/munge.key ] || { dd if=/dev/urandom bs=1 count=1024 of=/etc/munge/munge.key status=none; }
    chown munge:munge /etc/munge/munge.key /run/munge && chmod 400 /etc/munge/munge.key && chmod 755 /run/munge
    cat > /etc/slurm/slurm.conf << END
ClusterName=workbook
SlurmctldHost=$NODE(127.0.0.1)
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
InactiveLimit=0
KillWait=5
MinJobAge=300
SlurmctldTimeout=30
SlurmdTimeout=30
Waittime=0
NodeName=$NODE NodeAddr=127.0.0.1 CPUs=$CORES RealMemory=100000 State=UNKNOWN
PartitionName=main Nodes=$NODE Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
END
    sed -i "s/RealMemory=100000/RealMemory=$(( $(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024 - 500 ))/" /etc/slurm/slurm.conf
    pgrep -x munged > /dev/null || runuser -u munge -- munged
    pgrep -x slurmctld > /dev/null || slurmctld
    pgrep -x slurmd > /dev/null || slurmd
    for _ in $(seq 60); do
        sinfo -h -o %T 2> /dev/null | grep -q idle && { sinfo; return; }
        scontrol update NodeName="$NODE" State=RESUME 2> /dev/null || true
        sleep 1
    done
    tail -n 20 /var/log/slurm/*.log >&2
    exit 1
}

stop() {
    scancel --user="$(id -un)" 2> /dev/null || true
    pkill -x slurmd || true
    pkill -x slurmctld || true
    pkill -x munged || true
}

"$1"
