"""Everything that is measured on a GPU, one command after the other:  python -m benchmarks.gpu

    python -m benchmarks.gpu --small --device cpu     # that all of it works: minutes, no GPU, figures of no use

What fails is shown as failed, with its last line, and the rest goes on.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys

DOCTOR = ["-c", "from pairclean_cli.main import main; main()", "doctor"]
#: Heading, module, its arguments, and those of a small run.
BENCHMARKS = [
    ("ViT-L/14", "embedding", ["ViT-L-14"], ["RN50", "--pictures", "8"]),
    ("ViT-B/32", "embedding", ["ViT-B-32"], ["ViT-B-32", "--pictures", "8"]),
    ("Transport", "transport", ["--sizes", "128", "2048"], ["--sizes", "32"]),
    ("Training", "training", [], []),
    ("Learning in folds", "folds", [], ["--pairs", "2000"]),
    ("After embedding", "scale", ["--sizes", "1000000", "10000000"], ["--sizes", "1000", "2000"]),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    commands = [("Machine", DOCTOR)]
    for heading, module, arguments, small in BENCHMARKS:
        chosen = small if options.small else arguments
        commands.append((heading, ["-m", f"benchmarks.{module}", *chosen, "--device", options.device]))
    print(f"# On {options.device}, {datetime.date.today()}", flush=True)
    failed = [heading for heading, arguments in commands if not done(heading, arguments)]
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


def done(heading: str, arguments: list[str]) -> bool:
    """Whether the command ended well; prints what it printed."""
    command = f" (`python {' '.join(arguments)}`)" if arguments[0] == "-m" else ""
    print(f"\n## {heading}{command}\n", flush=True)
    ran = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    print(ran.stdout.strip(), flush=True)
    if ran.returncode:
        lines = ran.stderr.strip().splitlines() or ["it said nothing"]
        print(f"\nFailed with status {ran.returncode}: {lines[-1]}", flush=True)
    return ran.returncode == 0


if __name__ == "__main__":
    main()
