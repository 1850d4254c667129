"""Runs the examples of the pages, and checks or writes the outputs that they show.

    python scripts/run_pages.py docs/sampling.md            # prints what differs
    python scripts/run_pages.py docs/sampling.md --write    # puts the outputs into the page

A page runs from top to bottom, in an empty folder. Its ``python`` blocks share their names. A ``text`` block right after
one is what it prints. In a ``console`` block the lines with ``$ decoding`` are run, and the lines after each are what it
prints. ``<!-- not run: reason -->`` before a block leaves it out; a Python block must still compile.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>[^\n]+) -->\n+)?^```(?P<kind>\w+)\n(?P<body>.*?)^```$", re.M | re.S)
COMMAND = re.compile(r"^\$ (?P<line>.*(?:\\\n.*)*)\n(?P<shown>(?:(?!\$ ).*\n)*)", re.M)


@dataclass
class Example:
    """One block of a page that is run.

    Attributes:
        start, end: where its code is in the page.
        shown: what the page says that it prints, None where it says nothing.
        output: the place of that in the page.
        reason: why it is not run, None where it is.
    """

    kind: str
    code: str
    start: int
    end: int
    shown: str | None
    output: tuple[int, int]
    reason: str | None

    @property
    def lines(self) -> int:
        """The number of lines of its code."""
        return self.code.count("\n")


def examples(text: str) -> list[Example]:
    """Return the examples of a page, in order."""
    blocks = list(BLOCK.finditer(text))
    found = []
    for block, after in zip_longest(blocks, blocks[1:]):
        kind, start, end = block["kind"], block.start("body"), block.end("body")
        if kind == "python":
            follows = after is not None and after["kind"] == "text" and not text[block.end() : after.start()].strip()
            place = (after.start("body"), after.end("body")) if after is not None and follows else (0, 0)
            shown = text[slice(*place)] if follows else None
            found.append(Example("python", block["body"], start, end, shown, place, block["reason"]))
        elif kind == "console":
            for line in COMMAND.finditer(block["body"]):
                place = (start + line.start("shown"), start + line.end("shown"))
                code = line["line"].replace("\\\n", " ")
                if code.startswith("decoding "):
                    found.append(Example("console", code, start, end, line["shown"], place, block["reason"]))
    return found


def run(text: str, name: str) -> Iterator[tuple[Example, str]]:
    """Run the examples of a page in the present folder and yield each with what it printed.

    Examples that have a reason not to be run are compiled only, and not yielded.
    """
    names: dict[str, object] = {"__name__": "__main__"}
    for example in examples(text):
        line = text.count("\n", 0, example.start)
        if example.kind == "python":
            code = compile("\n" * line + example.code, name, "exec")
        if example.reason is not None:
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            if example.kind == "python":
                exec(code, names)
            else:
                _command(example.code)
        text_of_it = printed.getvalue()
        yield example, text_of_it if text_of_it.endswith("\n") or not text_of_it else text_of_it + "\n"


def _command(line: str) -> None:
    from decoding.cli.main import main  # with it come all commands, which a page of Python examples does not need

    assert main(shlex.split(line)[1:]) == 0, line


def differences(text: str, name: str) -> list[str]:
    """Return what the page shows beside what came, for each example where they differ; runs the page."""
    return [
        f"{name}:{text.count(chr(10), 0, example.start)}: the page shows\n{example.shown}but it printed\n{printed}"
        for example, printed in run(text, name)
        if example.shown is not None and example.shown != printed
    ]


def written(text: str, name: str) -> str:
    """Return the page with the outputs of its examples; runs it."""
    for example, printed in reversed(list(run(text, name))):
        if example.shown is not None:
            start, end = example.output
            text = text[:start] + printed + text[end:]
    return text


@contextlib.contextmanager
def empty_folder() -> Iterator[None]:
    """Work in an empty folder."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def main() -> None:
    """Run the pages of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--write", action="store_true", help="put the outputs into the pages")
    args = parser.parse_args()
    for page in args.pages:
        text, path = page.read_text(encoding="utf-8"), page.resolve()
        with empty_folder():
            if args.write:
                path.write_text(written(text, page.name), encoding="utf-8")
            else:
                print("\n".join(differences(text, page.name)), end="")


if __name__ == "__main__":
    main()
