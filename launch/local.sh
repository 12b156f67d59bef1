#!/usr/bin/env bash
# Runs ddjax as N processes on this machine, as if they were N hosts: for trying out and for tests.
#
#   launch/local.sh [--dry-run] N --config=CONFIG --workdir=DIR ...
#
# --dry-run prints the commands instead; `--` may stand before the arguments of ddjax. Nothing to
# edit. What each process sees of the devices is up to the environment; two processes with four CPU
# devices each:
#
#   JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=4 \
#     launch/local.sh 2 --config=configs/digits.py --workdir=/tmp/digits
#
# Process 0 writes to the terminal as it is, process i with [i] before each line. If one fails, the
# others are ended (SIGTERM, SIGKILL after GRACE seconds, 10 by default) and its exit code is the
# script's. SIGTERM or Ctrl-C ends all with SIGTERM and waits: they save and exit with 143, and so
# does the script. A second one is passed on too, and ends them at once.

set -mu  # m: processes in groups of their own, so that Ctrl-C and the like reach this script alone

usage() {
  echo "error: $1; usage: launch/local.sh [--dry-run] N --config=CONFIG --workdir=DIR ..." >&2
  exit 2
}

dry='' count=''
while (($#)); do
  case $1 in
    --dry-run) dry=1 ;;
    --) shift; break ;;
    -*) break ;;
    *) [[ -z $count ]] || break; count=$1 ;;
  esac
  shift
done
[[ $count =~ ^[1-9][0-9]{0,2}$ ]] || usage "N is '$count' and must be a number from 1 to 999"
(($#)) || usage "there are no arguments for ddjax"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1  # a line is shown when it is written, also through a pipe

# Below 32768, where Linux begins to give ports to outgoing connections.
port=$((20000 + RANDOM % 12768))
while (: <>"/dev/tcp/localhost/$port") 2>/dev/null; do port=$((20000 + RANDOM % 12768)); done

command_of() {  # of process $1, into `command`
  command=(python -m ddjax.main "${arguments[@]}" "--config.hosts.coordinator=localhost:$port"
    "--config.hosts.count=$count" "--config.hosts.index=$1")
}

arguments=("$@")
if [[ $dry ]]; then
  for ((i = 0; i < count; i++)); do
    command_of "$i"
    printf 'PYTHONPATH=%q' "$PYTHONPATH"; printf ' %q' "${command[@]}"; echo ' &'
  done
  exit
fi

# In the background, so that the terminal's Ctrl-C goes to this script and not to the sleep.
pause() { sleep "$1" & wait $!; }

declare -A running=()  # process index -> process id
stop() { for pid in "${running[@]}"; do kill -TERM "$pid" 2>/dev/null; done; }

early=''  # a signal while they start is kept until all can be told
trap early=1 TERM INT HUP
filters=()
for ((i = 0; i < count; i++)); do
  command_of "$i"
  if ((i == 0)); then
    "${command[@]}" </dev/null &
    running[$i]=$!
    continue
  fi
  exec {out}> >(trap '' TERM INT HUP; exec sed -u "s/^/[$i] /"); filters+=($!)
  exec {err}> >(trap '' TERM INT HUP; exec sed -u "s/^/[$i] /" >&2); filters+=($!)
  "${command[@]}" </dev/null >&"$out" 2>&"$err" {out}>&- {err}>&- &
  running[$i]=$!
  exec {out}>&- {err}>&-
done
trap stop TERM INT HUP
[[ $early ]] && stop

# Looking five times a second is simpler than waiting for whichever ends first, and knows the time.
result=0 deadline=''
while ((${#running[@]})); do
  for i in "${!running[@]}"; do
    kill -0 "${running[$i]}" 2>/dev/null && continue
    wait "${running[$i]}" 2>/dev/null; code=$?
    unset "running[$i]"
    if ((code == 143)); then  # it saved, and the others do too: they know of it from each other
      ((result)) || result=143
    elif ((code && ! deadline)); then
      echo "launch/local.sh: process $i ended with code $code; ending the others" >&2
      result=$code deadline=$((SECONDS + ${GRACE:-10}))
      stop
    fi
  done
  if [[ $deadline ]] && ((SECONDS >= deadline)); then
    for pid in "${running[@]}"; do kill -KILL -- "-$pid" 2>/dev/null; done
  fi
  ((${#running[@]})) && pause 0.2
done

# Their last lines; not for ever, since a process left behind by one of them holds its pipe open.
for ((i = 0; i < 20; i++)); do
  kill -0 "${filters[@]}" 2>/dev/null || break
  pause 0.1
done
exit "$result"
