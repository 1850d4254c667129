"""Turn the JSON of bench/test_kernels.py into a table of ratios and a plot.

    python -m bench.report_kernels kernels.json docs/benchmarks

writes kernels.md and kernels.png there.
"""

import json
import platform
import statistics
import sys
from importlib.metadata import version
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

from decoding.plot.style import COLOURS, styled

PEERS = ["numpy", "scipy", "torch", "onnxruntime", "keras"]
AIMS = [
    ("tempered draw, (64, 5000), against the best peer", "draw", (64, 5000), "best", 14),
    ("tempered draw, (64, 5000), against a bare maximum", "draw", (64, 5000), "maximum", 6),
    ("top-k 50 + top-p 0.9, (8, 32000), against torch's sort", "top-k 50, top-p 0.9", (8, 32000), "torch", 40),
    ("beam_prune, 2x5 beams over 10,000, against torch", "beam_prune", (2, 5, 10000), "torch", 5),
]


def medians(data):
    """{task: {shape: {peer: seconds}}}, in the order of the run."""
    out = {}
    for bench in data["benchmarks"]:
        info = bench["extra_info"]
        shape = out.setdefault(info["task"], {}).setdefault(tuple(info["shape"]), {})
        shape[info["peer"]] = statistics.median(bench["stats"]["data"])
    return out


def header(data):
    """When, where and with what."""
    cpu = data["machine_info"]["cpu"].get("brand_raw", platform.machine())
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "torch", "onnxruntime"))
    isa = data["benchmarks"][0]["extra_info"]["instruction_set"]
    return (
        f"{data['datetime'][:10]}, {cpu}, instruction set `{isa}`, one thread, Python {platform.python_version()}, "
        f"{packages}. Medians of 200 rounds, all peers in the same run:\n\n"
        "```\nOMP_NUM_THREADS=1 pytest bench/test_kernels.py --benchmark-json=kernels.json\n"
        "python -m bench.report_kernels kernels.json docs/benchmarks\n```\n"
    )


def aims_table(times):
    """The aims of the design and what came out."""
    lines = ["| aim | wanted | measured |", "| --- | --- | --- |"]
    for name, task, shape, against, factor in AIMS:
        row = times[task][shape]
        if against == "maximum":
            lines.append(f"| {name} | at most {factor}x its time | {row['ours'] / row['maximum']:.1f}x |")
        else:
            best = min(row[p] for p in PEERS if p in row) if against == "best" else row[against]
            lines.append(f"| {name} | at least {factor}x faster | {best / row['ours']:.1f}x |")
    over = times["draw"][(1, 256)]["ours"] - times["empty native call"][()]["ours"]
    lines.append(f"| tempered draw, (1, 256), over an empty native call | at most 1.5 µs | {over * 1e6:.2f} µs |")
    return "\n".join(lines)


def task_table(rows):
    """Microseconds of ours, how many times longer each peer takes, and how many bare maxima ours is worth."""
    peers = [peer for peer in PEERS if any(peer in row for row in rows.values())]
    lines = [
        "| shape | ours, µs | " + " | ".join(peers) + " | ours / bare maximum |",
        "| --- | ---: | " + " | ".join("---:" for _ in peers) + " | ---: |",
    ]
    for shape, row in rows.items():
        ratios = [f"{row[peer] / row['ours']:.1f}x" if peer in row else "" for peer in peers]
        cells = [str(shape), f"{row['ours'] * 1e6:.1f}", *ratios, f"{row['ours'] / row['maximum']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def losses(times):
    """Every case where a peer was faster."""
    found = [
        f"- {task} {shape}: {peer} takes {row[peer] / row['ours']:.2f} of our time"
        for task, rows in times.items()
        for shape, row in rows.items()
        for peer in PEERS
        if row.get(peer, row["ours"]) < row["ours"]
    ]
    return "\n".join(found) or "Nowhere in this run."


def plot(times, path):
    """Small multiples: one panel a task, a row a shape, a mark for each peer at its time over ours."""
    tasks = [task for task in times if task != "empty native call"]
    with styled():
        figure, panels = plt.subplots(2, (len(tasks) + 1) // 2, figsize=(15, 7), sharex=True, layout="constrained")
        for panel, task in zip(panels.flat, tasks, strict=False):
            rows = times[task]
            panel.axvline(1, color="0.3", linewidth=1)
            for mark, colour, peer in zip("os^Dv", COLOURS, PEERS, strict=False):
                ratios = {i: row[peer] / row["ours"] for i, row in enumerate(rows.values()) if peer in row}
                panel.semilogx(ratios.values(), ratios.keys(), mark, color=colour, markersize=7, linestyle="none")
            panel.set_yticks(range(len(rows)), ["×".join(map(str, shape)) for shape in rows], fontsize=9)
            panel.set(title=task, ylim=(len(rows) - 0.5, -0.5))
            panel.grid(axis="x", alpha=0.3)
            panel.tick_params(labelbottom=True)
        for panel in panels.flat[len(tasks) :]:
            panel.axis("off")
        figure.supxlabel("time over ours: right of 1, ours is faster")
        marks = [
            Line2D([], [], marker=mark, color=colour, linestyle="none", label=peer)
            for mark, colour, peer in zip("os^Dv", COLOURS, PEERS, strict=False)
        ]
        figure.legend(handles=marks, loc="outside upper right", ncols=len(PEERS))
    figure.savefig(path, dpi=80)


def main():
    """Read the JSON, write the page and the plot."""
    data, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    times = medians(data)
    tasks = {task: rows for task, rows in times.items() if task != "empty native call"}
    sections = "\n".join(f"## {task}\n\n{task_table(rows)}\n" for task, rows in tasks.items())
    page = f"""# Kernels

{header(data)}
A number under a peer says how many times as long as ours it takes. The last column says how often NumPy could take the
bare maximum of every row in our time. The Keras function starts from ready probabilities. No peer of the draws returns
the chosen tokens' log-probabilities; ours computes them from the untempered logits in the same pass.

{aims_table(times)}

![Times](kernels.png)

{sections}
## Where we are slower

{losses(times)}

[kernels-notes.md](kernels-notes.md) compares the instruction sets and lists what was tried.
"""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kernels.md").write_text(page)
    plot(times, folder / "kernels.png")


if __name__ == "__main__":
    main()
