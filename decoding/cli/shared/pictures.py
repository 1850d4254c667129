"""Pictures that commands write."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import decoding
from decoding.errors import OptionError


def check_picture(file: str) -> Any:
    """Return `decoding.plot` after a check that a picture can be written to the file: before the work rather than after.

    Raises:
        OptionError: matplotlib is not installed, or there is no such folder or kind of picture.
    """
    plot = decoding.plot
    kinds = import_module("matplotlib.backend_bases").FigureCanvasBase.get_supported_filetypes()
    if Path(file).suffix.removeprefix(".").lower() not in kinds:
        raise OptionError(f"--plot {file}: expected a name that ends in .{', .'.join(sorted(kinds))}")
    if not Path(file).parent.is_dir():
        raise OptionError(f"--plot {file}: there is no folder {Path(file).parent}")
    return plot


def write_picture(figure: Any, file: str) -> None:
    """Write a figure to a file, of the kind that its name ends in."""
    try:
        figure.savefig(file)
    except OSError as error:
        raise OptionError(f"--plot {file}: cannot be written: {error}") from error
