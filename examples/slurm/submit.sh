#!/bin/bash
# Clean SHARDS into RUN on a Slurm cluster; both lie on a disk that all nodes see, or on an object store (s3://...).
#
#   ./submit.sh SHARDS RUN JOBS [options of `pairclean embed`, such as --model hog-tfidf]
#
# Four steps, each of which starts when the one before has succeeded:
# embed (JOBS jobs) -> align, judge and rematch (one job) -> export (JOBS jobs) -> report (one job).
# After a failure, submit the same again: what is done is skipped. `pairclean status RUN` shows how far it is.
set -euo pipefail

if [[ $# -lt 3 || ! $3 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: $0 SHARDS RUN JOBS [options of pairclean embed]; JOBS is the number of jobs, such as 32" >&2
    exit 2
fi
absolute() { if [[ $1 == *://* ]]; then echo "$1"; else realpath -m "$1"; fi; }
shards=$(absolute "$1")
run=$(absolute "$2")
jobs=$3
cd "$(dirname "$0")"

array=0-$((jobs - 1))
embed=$(sbatch --parsable --array="$array" embed.sbatch "$shards" "$run" "${@:4}")
learn=$(sbatch --parsable --dependency=afterok:"$embed" learn.sbatch "$run")
export=$(sbatch --parsable --dependency=afterok:"$learn" --array="$array" export.sbatch "$run")
sbatch --parsable --dependency=afterok:"$export" report.sbatch "$run"
