"""The scripts for Slurm and Kubernetes: their syntax, and their commands run as plain processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import pairclean
from pairclean.synthetic.scenes import draw_scenes, write_shards

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = [*sorted((EXAMPLES / "slurm").iterdir()), EXAMPLES / "kubernetes" / "clean.sh"]
STEPS = ["embed", "learn", "export", "report"]

PAIRCLEAN = "from pairclean_cli.main import main; main()"
#: In place of Slurm's: the jobs run at once, as processes, and a failure of one is a failure of all.
SBATCH = """#!/bin/bash
array=
while [[ $1 == --* ]]; do
    if [[ $1 == --array=0-* ]]; then array=${1#--array=0-}; fi
    shift
done
if [[ -z $array ]]; then bash "$@" >&2 || exit 1; fi
pids=()
for index in ${array:+$(seq 0 "$array")}; do
    SLURM_ARRAY_TASK_ID=$index SLURM_ARRAY_TASK_COUNT=$((array + 1)) bash "$@" >&2 &
    pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || exit 1; done
echo 17
"""


#: In place of Kubernetes': notes which steps are applied, and says of each Job first nothing, then what became of it.
KUBECTL = """#!/bin/bash
case $1 in
    apply) echo "${*: -1}" >> applied ;;
    get)
        echo "$2" >> asked
        if (( $(grep -c "^$2$" asked) == 1 )); then exit; fi
        if [[ $2 == job/pairclean-$FAILING ]]; then echo "FailureTarget Failed"; exit; fi
        echo "SuccessCriteriaMet Complete"
        ;;
esac
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards, and `alone`, the run of one process over them."""
    home = tmp_path_factory.mktemp("cluster")
    write_shards(draw_scenes(240, 0), home / "shards", shard_size=40)
    pairclean.clean(home / "shards", home / "alone", model="hog-tfidf")
    return home


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """With `pairclean` of this Python, and an `sbatch`."""
    programs = tmp_path_factory.mktemp("programs")
    (programs / "sbatch").write_text(SBATCH)
    (programs / "pairclean").write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{PAIRCLEAN}" "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    return {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


def same_files(one: Path, other: Path) -> None:
    for folder in ("embeddings", "verdicts", "cleaned"):
        files = sorted(path.relative_to(one) for path in (one / folder).rglob("*") if path.is_file())
        assert len(files) >= 6
        assert files == sorted(path.relative_to(other) for path in (other / folder).rglob("*") if path.is_file())
        for file in files:
            assert (one / file).read_bytes() == (other / file).read_bytes(), file


def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((EXAMPLES / "kubernetes" / "clean.yaml").read_text(encoding="utf-8")))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_the_scripts_are_valid_bash(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], capture_output=True, text=True).stderr == ""


def test_the_yaml_describes_jobs() -> None:
    jobs = documents()
    assert [job["metadata"]["labels"]["step"] for job in jobs] == STEPS
    for job in jobs:
        assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
        pod = job["spec"]["template"]["spec"]
        assert pod["restartPolicy"] == "Never"  # which a policy for failures needs
        (rule,) = job["spec"]["podFailurePolicy"]["rules"]
        assert rule == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        (command,) = container["args"]
        indexed = job["spec"].get("completionMode") == "Indexed"
        assert ("--shard-index" in command) == indexed
        assert not indexed or f"--num-shards {job['spec']['completions']}" in command


@pytest.mark.parametrize("rest", [[], ["--model", "hog-tfidf"], ["0"]], ids=["nothing", "an option", "zero"])
def test_the_number_of_jobs_cannot_be_left_out(tmp_path: Path, rest: list[str]) -> None:
    command = [EXAMPLES / "slurm" / "submit.sh", tmp_path, tmp_path / "run", *rest]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "JOBS is the number of jobs" in done.stderr


@pytest.mark.parametrize("failing", ["", "embed", "export"])
def test_a_failed_job_ends_the_steps_for_kubernetes(tmp_path: Path, failing: str) -> None:
    script = tmp_path / "clean.sh"
    script.write_text((EXAMPLES / "kubernetes" / "clean.sh").read_text(encoding="utf-8"))
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "FAILING": failing, "SECONDS_BETWEEN": "0"}
    done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == (1 if failing else 0)
    assert done.stderr.startswith(f"job/pairclean-{failing} has failed: " if failing else "")
    assert (done.stderr == "") == (failing == "")
    applied = (tmp_path / "applied").read_text().split()
    assert applied == [f"step={step}" for step in STEPS[: STEPS.index(failing) + 1 if failing else None]]


def test_addresses_are_handed_to_slurm_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "sbatch").write_text('#!/bin/sh\necho "$@" >> "$HOME/called"\necho 17\n')
    (tmp_path / "sbatch").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    command = [EXAMPLES / "slurm" / "submit.sh", "s3://bucket/shards", "run", "4"]
    subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, check=True)
    first, *others = (tmp_path / "called").read_text().splitlines()
    assert first.endswith(f"embed.sbatch s3://bucket/shards {tmp_path}/run")
    assert all(call.endswith(f" {tmp_path}/run") for call in others)
    assert len(others) == 3


@pytest.mark.slow
def test_the_chain_for_slurm_runs(home: Path, environment: dict[str, str], tmp_path: Path) -> None:
    command = [EXAMPLES / "slurm" / "submit.sh", home / "shards", tmp_path / "run", "4", "--model", "hog-tfidf"]
    for _ in range(2):  # the second time there is nothing left to do
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert (done.returncode, done.stdout) == (0, "17\n"), done.stderr
        same_files(home / "alone", tmp_path / "run")


@pytest.mark.slow
def test_the_jobs_for_kubernetes_run(home: Path, environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "shards").symlink_to(home / "shards")
    for job in documents():
        (container,) = job["spec"]["template"]["spec"]["containers"]
        (text,) = container["args"]
        command = text.replace("/data/shards", str(home / "shards")).replace("/data", str(tmp_path))
        command = command.replace("ViT-B-32", "hog-tfidf")
        pods = [
            subprocess.Popen([*container["command"], command], env={**environment, "JOB_COMPLETION_INDEX": str(index)})
            for index in range(job["spec"].get("completions", 1))
        ]
        assert [pod.wait(timeout=600) for pod in pods] == [0] * len(pods)
    same_files(home / "alone", tmp_path / "run")
