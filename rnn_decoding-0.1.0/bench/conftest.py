"""After a run: every workload's peers in one table, medians and their ratios."""

from __future__ import annotations

import statistics


def pytest_configure(config):
    """Torch's exporter and compiler warn of their own ways: here that is no error."""
    config.addinivalue_line("filterwarnings", "default")


def pytest_terminal_summary(terminalreporter, config):
    session = getattr(config, "_benchmarksession", None)
    rows: dict[str, dict[str, float]] = {}
    for bench in session.benchmarks if session else []:
        info = bench.extra_info
        if "workload" in info and bench.stats.data:
            rows.setdefault(info["workload"], {})[info["peer"]] = statistics.median(bench.stats.data) / info["steps"]
    if not rows:
        return
    peers = list(dict.fromkeys(peer for row in rows.values() for peer in row))
    terminalreporter.section("microseconds a step (median), and ratio to bare")
    for name, row in rows.items():
        cells = (
            f"{peer} {1e6 * row[peer]:9.1f} ({row[peer] / row.get('bare', row[peer]):5.2f}x)"
            for peer in peers
            if peer in row
        )
        terminalreporter.write_line(f"{name:26} " + "  ".join(cells))
