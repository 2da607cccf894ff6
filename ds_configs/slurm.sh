#!/usr/bin/env bash
# One training over several nodes: one task per node starts one process per GPU; a preempted job goes on by itself.
#
#   sbatch --nodes 4 ds_configs/slurm.sh train --config outputs/base.yaml --output_dir outputs/big \
#       --deepspeed ds_configs/zero3.json
#
# Everything behind the script's name is for run_lens.py; --output_dir has to be given, on a file system that all nodes
# share, since a requeued job finds its checkpoints there. Without --deepspeed, LAUNCH_CONFIG names another file for
# accelerate (default ds_configs/ddp.yaml; ds_configs/hsdp.yaml, ds_configs/fsdp2.yaml).
#SBATCH --job-name=lens
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=lens-%j.log
#SBATCH --signal=B:USR1@120
set -euo pipefail

fail() {
    echo "slurm.sh: $1" >&2
    exit 2
}

[ "$#" -gt 0 ] || fail "say what to run: sbatch ds_configs/slurm.sh train --output_dir outputs/NAME ..."
[[ -n "${SLURM_JOB_NODELIST:-}" && -n "${SLURM_JOB_ID:-}" ]] || fail "start it with sbatch: this is no job of Slurm's"

run_folder=""
engine="accelerate"
previous=""
for word in "$@"; do
    case "$word" in
        --output[_-]dir=*) run_folder="${word#*=}" ;;
        --deepspeed | --deepspeed=*) engine="deepspeed" ;;
        --resume[_-]from[_-]checkpoint | --resume[_-]from[_-]checkpoint=*)
            fail "leave --resume_from_checkpoint to this script"
            ;;
    esac
    case "$previous" in
        --output[_-]dir) case "$word" in --*) ;; *) run_folder="$word" ;; esac ;;
    esac
    previous="$word"
done
[ -n "$run_folder" ] || fail "give --output_dir: a job that is requeued looks for its checkpoints there"

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
[ "${#hosts[@]}" -gt 0 ] || fail "scontrol names no hosts for $SLURM_JOB_NODELIST"
main_host="${hosts[0]}"
# Two jobs may share a node: the port follows from the job's number.
main_port=$((20000 + SLURM_JOB_ID % 20000))
gpus="${SLURM_GPUS_ON_NODE:-8}"
[[ "$gpus" =~ ^[0-9]+$ ]] || fail "SLURM_GPUS_ON_NODE=$gpus is no number"
restarts="${SLURM_RESTART_COUNT:-0}"

# The newest checkpoint that is whole, if there is one; same number of processes, same engine, same losses.
resume=(--resume_from_checkpoint auto)

rendezvous=(--nnodes "${#hosts[@]}" --nproc_per_node "$gpus" --rdzv_backend c10d --rdzv_id "$SLURM_JOB_ID-$restarts"
    --rdzv_endpoint "$main_host:$main_port" --max_restarts 0)
if [ "$engine" = "deepspeed" ]; then
    launch=(python -m torch.distributed.run "${rendezvous[@]}")
else
    config="${LAUNCH_CONFIG:-ds_configs/ddp.yaml}"
    [[ -f "$config" && "$config" == *.yaml ]] || fail "LAUNCH_CONFIG=$config: there is no such file for accelerate"
    copies=() # of spread weights: one in each node, where the file asks for copies
    if grep -q "^parallelism_config:" "$config"; then
        copies=(--parallelism_config_dp_replicate_size "${#hosts[@]}" --parallelism_config_dp_shard_size "$gpus")
    fi
    # accelerate wants each node's number, and only the task itself knows it.
    # shellcheck disable=SC2016
    launch=(bash -c 'exec python -m accelerate.commands.launch --config_file "$1" --num_machines "$2" --num_processes "$3" \
        --machine_rank "$SLURM_NODEID" --main_process_ip "$4" --main_process_port "$5" "${@:6}"' launch
        "$config" "${#hosts[@]}" "$((${#hosts[@]} * gpus))" "$main_host" "$main_port" "${copies[@]}")
fi

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-8}"
# Asked to end, a process finishes its step and saves: of the two minutes of --signal, the launchers give it so many seconds.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-100}"
echo "slurm.sh: job $SLURM_JOB_ID, start $restarts, ${#hosts[@]} nodes of $gpus GPUs, $main_host:$main_port, ${resume[*]}"

# One node that dies takes the others down within a minute; what is saved stays whole.
# A step does not take the number of CPUs over from its job.
srun --kill-on-bad-exit=1 --wait=60 --cpus-per-task="${SLURM_CPUS_PER_TASK:-64}" "${launch[@]}" run_lens.py "$@" "${resume[@]}" &
step=$!

preempted() {
    echo "slurm.sh: the time is up or the nodes are wanted; back into the queue"
    kill -TERM "$step" 2> /dev/null || true
    wait "$step" || true
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}
trap preempted USR1 TERM
wait "$step"
