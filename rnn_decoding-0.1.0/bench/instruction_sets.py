"""Every instruction set that this processor has: do they draw the same tokens, and how long do they take.

python -m bench.instruction_sets
"""

import json
import os
import subprocess
import sys
import time

import numpy as np

FILTERS = [{}, {"top_k": 50, "top_p": 0.9}, {"top_p": 0.9}, {"min_p": 0.05}, {"typical_p": 0.9}, {"eta_cutoff": 1e-3}]
SHAPES = [(4000, 257), (2000, 5000), (200, 50257)]


def measure():
    """Tokens of many draws, and the median time of a plain one over (64, 5000), as JSON."""
    from decoding import kernels

    tokens = []
    for shape in SHAPES:
        x = (np.random.default_rng(1).normal(size=shape) * 2).astype(np.float32)
        for step, filters in enumerate(FILTERS):
            tokens += kernels.draw(x, temperature=0.8, seed=1, step=step, **filters)[0].tolist()
    x, times = np.random.default_rng(2).normal(size=(64, 5000)).astype(np.float32), []
    for step in range(200):
        start = time.perf_counter()
        kernels.draw(x, temperature=0.8, seed=1, step=step)
        times.append(time.perf_counter() - start)
    json.dump({"tokens": tokens, "time": float(np.median(times))}, sys.stdout)


def main():
    """One process for each instruction set; prints a table."""
    from decoding import kernels

    results = {}
    for name in kernels.instruction_sets():
        command = [sys.executable, "-m", "bench.instruction_sets", "measure"]
        environment = dict(os.environ, DECODING_ISA=name)
        results[name] = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
    first = next(iter(results.values()))
    print(f"| instruction set | draw of (64, 5000), µs | tokens unlike {kernels.instruction_sets()[0]}'s |")
    print("| --- | ---: | ---: |")
    for name, result in results.items():
        unlike = sum(a != b for a, b in zip(result["tokens"], first["tokens"], strict=True))
        print(f"| {name} | {result['time'] * 1e6:.0f} | {unlike} of {len(first['tokens'])} |")


if __name__ == "__main__":
    measure() if "measure" in sys.argv else main()
