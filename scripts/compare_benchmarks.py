"""Compare two sets of pytest-benchmark's JSON files, and fail where a benchmark became slower.

    python scripts/compare_benchmarks.py --limit 1.25 --base base-1.json base-2.json --head head-1.json head-2.json

The files of a set are rounds of the same benchmarks on the same machine. A benchmark's time is the least of its medians, because
other work on the machine only adds to it. Prints the ratios head / base, the worst first.
"""

import argparse
import json
import sys
from pathlib import Path


def least_medians(paths: list[Path]) -> dict[str, float]:
    """Return the least median of each benchmark, in seconds, by its name."""
    times: dict[str, float] = {}
    for path in paths:
        for benchmark in json.loads(path.read_text())["benchmarks"]:
            name, median = benchmark["fullname"], benchmark["stats"]["median"]
            times[name] = min(median, times.get(name, median))
    return times


def compare(base: dict[str, float], head: dict[str, float], limit: float) -> tuple[list[str], int]:
    """Return the lines of a report over the benchmarks of both sides, and how many are slower than the limit."""
    ratios = sorted(((head[name] / base[name], name) for name in base.keys() & head.keys()), reverse=True)
    if not ratios:
        raise SystemExit("the two sides have no benchmark in common")
    lines = [f"| head / base | base, µs | {'benchmark':50} |", f"| ---: | ---: | {'-' * 50} |"]
    lines += [f"| {ratio:.2f} | {base[name] * 1e6:.1f} | {name} |" for ratio, name in ratios]
    return lines, sum(ratio > limit for ratio, _ in ratios)


def main() -> None:
    """Print the report; exit with 1 if a benchmark is slower than the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, nargs="+", required=True)
    parser.add_argument("--head", type=Path, nargs="+", required=True)
    parser.add_argument("--limit", type=float, default=1.25, help="the greatest ratio that passes")
    options = parser.parse_args()
    lines, slower = compare(least_medians(options.base), least_medians(options.head), options.limit)
    print("\n".join(lines))
    if slower:
        sys.exit(f"{slower} benchmarks are slower by more than a factor of {options.limit}")


if __name__ == "__main__":
    main()
