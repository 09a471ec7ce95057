"""All benchmarks, one after another, and the tables and pictures of docs/performance.md and docs/algorithms.md.

make bench                      # about an hour, 3 GB of disk
make bench ARGS="--quick"       # two minutes: whether everything runs; figures mean nothing
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time

from common import HERE, RESULTS

ALL = {
    "startup": ["--repeats", "3"],
    "passes": ["--scale", "0.02", "--repeats", "1"],
    "peers": ["--scale", "0.02", "--repeats", "2", "--limit", "10"],
    "families": ["--scale", "0.02", "--repeats", "1"],
    "kmeans": ["--scale", "0.02", "--repeats", "1", "--shapes", "0", "1", "2"],
    "device": ["--scale", "0.002"],
    "predicting": ["--scale", "0.05", "--repeats", "1"],
    "out_of_core": ["--gigabytes", "0.1", "--repeats", "1"],
    "remote": ["--megabytes", "20", "--repeats", "1"],
    "growth": ["--repeats", "1"],
    "scheduling": ["--repeats", "1", "--most", "10000"],
    "reads": ["--parts", "starts", "--problems", "slow", "--seeds", "6"],
    "starts": ["--problems", "4"],
    "maxima": ["--problems", "4"],
    "rows": ["--scale", "0.05", "--repeats", "2"],
    "checkpoints": ["--shapes", "2"],
    "memory": ["--cases", "0,1"],
    "errors": ["--rows", "500", "--repeats", "1"],
    "truncated": ["--repeats", "1", "--chunks", "1", "--rows-per-component", "10", "--shapes", "1"],
    "truncated_growth": ["--repeats", "1", "--sizes", "512", "1024", "--losses", "256", "--rows-per-component", "10"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes; keeps results and documents as they are")
    options = parser.parse_args()
    began = time.monotonic()
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        if options.quick and RESULTS.exists():
            shutil.copytree(RESULTS, scratch, dirs_exist_ok=True)
        for name, quick in ALL.items():
            command = [sys.executable, HERE / f"{name}.py", *(quick if options.quick else [])]
            if subprocess.run(command, check=False).returncode:
                failed.append(name)
        if options.quick:
            shutil.copytree(scratch, RESULTS, dirs_exist_ok=True)
        elif subprocess.run([sys.executable, HERE / "report.py"], check=False).returncode:
            failed.append("report")
    print(f"\n{(time.monotonic() - began) / 60:.1f} minutes")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
