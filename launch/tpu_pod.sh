#!/usr/bin/env bash
# Runs ddjax on a Cloud TPU slice of one or many hosts ("workers").
#
#   launch/tpu_pod.sh [--dry-run] create        ask for the TPU, and wait until it is there
#   launch/tpu_pod.sh [--dry-run] copy          copy and install this repository, mount the workdir
#   launch/tpu_pod.sh [--dry-run] run ARGS      start ddjax on all workers, and return
#   launch/tpu_pod.sh [--dry-run] resume ARGS   after a stop or a preemption: all of that again
#   launch/tpu_pod.sh [--dry-run] delete        delete the TPU; the workdir stays
#
# ARGS are those of ddjax.main, such as --config=configs/llamagen.py:L --workdir=/mnt/ddjax/L; `run`
# adds --config.hosts.coordinator=auto. A worker that fails does not end the others: they notice it
# after about 100 s. --dry-run prints the commands instead.
#
# Edit these, or set them in the environment; the project is gcloud's own:
NAME=${NAME:-ddjax}
ZONE=${ZONE:-europe-west4-a}
TYPE=${TYPE:-v6e-16}                   # gcloud compute tpus accelerator-types list --zone=ZONE
VERSION=${VERSION:-v2-alpha-tpuv6e}    # v5p: v2-alpha-tpuv5, v5e: v2-alpha-tpuv5-lite,
                                       # v4 and older: tpu-ubuntu2204-base
SPOT=${SPOT-yes}                       # cheaper, and may be taken away; SPOT= for one that is not
NFS=${NFS-}                            # where the workdir lives, such as 10.0.0.2:/ddjax
MOUNT=${MOUNT:-/mnt/ddjax}             # where the workers see it
#
# The workdir must be on a file system that all workers see and where a folder is renamed in one
# step, since that is how ddjax makes a checkpoint appear whole. A Filestore share (NFS) is that.
# A bucket through gcsfuse is not, unless its namespace is hierarchical and nothing caches metadata.
# To be done once, by hand, for the share and for one user id on all workers:
#
#   gcloud filestore instances create ddjax --zone=ZONE --tier=BASIC_HDD \
#     --file-share=name=ddjax,capacity=1TB --network=name=default
#   gcloud filestore instances describe ddjax --zone=ZONE  # tells its address
#   gcloud compute project-info add-metadata --metadata=enable-oslogin=TRUE

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fail() { echo "error: $1" >&2; exit 2; }

call() {  # run a command, or print it as one could type it
  [[ $dry ]] || { "$@"; return; }
  local word line=''
  for word; do
    [[ $word =~ ^[[:alnum:]_./:=,@%+-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    line+="$word "
  done
  echo "${line% }"
}
on_all() { call gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"; }

# Queued resources: such a request waits until there is room, where tpu-vm create would fail.
queue() { call gcloud compute tpus queued-resources "$1" "$NAME" --zone="$ZONE" "${@:2}"; }
state() { queue describe --format='value(state.state)'; }

await() {
  [[ ! $dry ]] || { state; echo "# again and again until it says ACTIVE"; return; }
  local now
  while now=$(state); [[ $now != ACTIVE ]]; do
    case $now in
      FAILED | SUSPEND*) fail "TPU $NAME is $now and must be ACTIVE; delete it, then create it" ;;
    esac
    echo "TPU $NAME is ${now:-not known yet}; waiting"; sleep "${WAIT:-30}"
  done
}

create() {
  queue create --node-id="$NAME" --accelerator-type="$TYPE" --runtime-version="$VERSION" \
    ${SPOT:+--spot}
  await
}

copy() {
  [[ $NFS == *:/* ]] || fail "NFS is '$NFS' and must be ADDRESS:/SHARE, such as 10.0.0.2:/ddjax"
  local archive=${TMPDIR:-/tmp}/ddjax.tar.gz
  call tar -czf "$archive" -C "$root" --exclude=__pycache__ \
    ddjax configs conversion pyproject.toml README.md LICENSE
  call gcloud compute tpus tpu-vm scp "$archive" "$NAME:ddjax.tar.gz" --zone="$ZONE" --worker=all
  # uv, because the runtime's own Python may be older than ddjax needs. lookupcache: what one worker
  # has just written, another that looked for it too early must find.
  on_all "set -e
rm -rf ddjax; mkdir ddjax; tar -xzf ddjax.tar.gz -C ddjax
curl -LsSf https://astral.sh/uv/install.sh | sh
[ -d venv ] || ~/.local/bin/uv venv --python 3.12 venv
~/.local/bin/uv pip install --python venv -e ddjax 'jax[tpu]'
sudo apt-get -o DPkg::Lock::Timeout=300 install -qy nfs-common; sudo mkdir -p $MOUNT
mountpoint -q $MOUNT || sudo mount -t nfs -o tcp,hard,lookupcache=positive $NFS $MOUNT
sudo chmod 1777 $MOUNT; mkdir -p $MOUNT/logs"
}

run() {
  local arguments log="$MOUNT/logs/$NAME-\$(hostname).log"
  arguments=$(printf ' %q' "$@" --config.hosts.coordinator=auto)
  # In a session of its own, so that the end of ssh is not the end of it.
  on_all "cd ddjax || exit
setsid nohup ~/venv/bin/python -u -m ddjax.main$arguments </dev/null >>$log 2>&1 &"
  echo "# follow it: $(dry=1 call gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=0 \
    --command="tail -F $log")"
}

resume() {
  local now
  if [[ $dry ]]; then
    state; echo "# if it says ACTIVE: stop what still runs"; stop
    echo "# if it is SUSPENDED or FAILED:"; delete; create; echo "# then:"
  else
    now=$(state 2>/dev/null) || now=''
    case $now in
      ACTIVE) stop ;;
      '') create ;;
      *SUSPEND* | FAILED) delete; create ;;
      *) await ;;
    esac
  fi
  copy
  run "$@"
}

# The [d] keeps the pattern from finding the shell that looks for it.
stop() {
  on_all "pkill -TERM -f 'm [d]djax.main' || exit 0
for i in \$(seq 300); do pgrep -f 'm [d]djax.main' >/dev/null || exit 0; sleep 1; done
pkill -KILL -f 'm [d]djax.main'"
}

delete() { queue delete --force --quiet; }  # --force: with its nodes

dry='' words=()
for word; do
  if [[ $word == --dry-run ]]; then dry=1; else words+=("$word"); fi
done
set -- ${words[@]+"${words[@]}"}
# A workdir on a worker's own disk would be of no use to the others, and gone with the TPU.
case ${1-} in
  run | resume) [[ " $*" == *" --workdir=$MOUNT/"* ]] ||
    fail "'${*:2}' has no --workdir=$MOUNT/..., where all workers see it" ;;
  *) (($# < 2)) || fail "$1 takes no arguments, and got '${*:2}'" ;;
esac
case ${1-} in
  create | copy | run | resume | delete) "$@" ;;
  *) fail "the command is '${1-}' and must be create, copy, run, resume or delete" ;;
esac
