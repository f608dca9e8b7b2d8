#!/bin/bash
# Run the steps of clean.yaml one after the other, each when the one before is complete. Ends with an error as soon as a
# Job fails. Can be called again at any time: Jobs that are complete stay as they are, those that run are waited for.
set -euo pipefail

cd "$(dirname "$0")"
for step in embed learn export report; do
    job=job/pairclean-$step
    kubectl apply -f clean.yaml -l "step=$step"
    while true; do
        # `kubectl wait` waits for one condition only, and a Job that has failed is never complete.
        conditions=$(kubectl get "$job" -o 'jsonpath={.status.conditions[?(@.status=="True")].type}')
        case " $conditions " in
            *" Complete "*) break ;;
            *" Failed "*)
                echo "$job has failed: read \`kubectl describe $job\` and \`kubectl logs $job\`, and before you call" \
                    "this script again, \`kubectl delete $job\` (what is done in the run directory is kept)" >&2
                exit 1
                ;;
        esac
        sleep "${SECONDS_BETWEEN:-10}"
    done
done
