"""Jobs: many rows from a file to a file, which go on where they were when the process ended. `docs/scaling.md` explains them."""

from decoding.jobs.job import Report
from decoding.jobs.keys import row_seed
from decoding.jobs.run import run
from decoding.jobs.scoring import score

__all__ = ["Report", "row_seed", "run", "score"]
