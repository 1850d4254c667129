"""Load damaged ONNX files and see that only our own errors come out.

    python scripts/fuzz_models.py --kind structure --count 10000 --seed 0 --jobs 2

There are four kinds of cases, the first three made from the files of tests/models/:

    bytes       bytes flipped, overwritten, cut out, doubled or truncated
    structure   a file that protobuf reads, with parts that are wrong (scripts/fuzz/structure.py), as a path, bytes or ModelProto
    layouts     a good file with states in random layouts (scripts/fuzz/layouts.py): decoded exactly as its cell in NumPy says,
                or refused
    roles       a good file, or one with ports of other ranks, types and sizes, loaded with roles of wrong kinds, or with
                those that its error advises

A damaged file (bytes, structure) that loads decodes a few tokens too. The kind, the seed and the number of a case make it
again; `--only N` loads one, here, with its traceback. How cases end is in scripts/fuzz/pool.py.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.fuzz import advice, layouts, odd, pool, ports, structure  # noqa: E402
from scripts.fuzz.case import Case  # noqa: E402
from scripts.fuzz.pool import Result  # noqa: E402

KINDS = ("bytes", "structure", "roles", "layouts")


def damaged(seed: int, number: int) -> bytes:
    """The bytes of one case."""
    rng = np.random.default_rng((seed, number))
    seeds = structure.seeds()
    data = bytearray(seeds[rng.integers(len(seeds))])
    if rng.random() < 0.15:
        return bytes(data[: rng.integers(len(data))])
    for _ in range(rng.geometric(0.4)):
        at, size = int(rng.integers(len(data))), int(rng.geometric(0.2))
        match rng.integers(16):  # a changed size hardly ever gets past the parser
            case 0:
                del data[at : at + size]
            case 1:
                data[at:at] = data[at : at + size]
            case 2 | 3:
                data[at : at + size] = rng.bytes(min(size, len(data) - at))
            case 4 | 5 | 6 | 7:
                data[at] = int(rng.integers(256))
            case _:
                data[at] ^= 1 << int(rng.integers(8))
    return bytes(data)


def roles_of(seed: int, number: int) -> tuple[bytes, Any]:
    """A good file, and the roles to load it with."""
    rng = np.random.default_rng((seed, number, 2))
    seeds = structure.seeds()
    data = seeds[rng.integers(len(seeds))]
    graph = onnx.load_model_from_string(data).graph
    names = [port.name for port in (*graph.input, *graph.output)]
    if rng.random() < 0.1:
        return data, odd.anything(rng)
    roles: dict[Any, Any] = ports.odd_roles(rng, names)
    for key in list(roles):
        if rng.random() < 0.3:
            roles[key] = odd.anything(rng)
        elif isinstance(roles[key], dict) and roles[key] and rng.random() < 0.3:
            roles[key][next(iter(roles[key]))] = odd.anything(rng)
    if rng.random() < 0.05:
        roles[(None, 1, 2.5, (), b"token")[rng.integers(5)]] = 1
    return data, roles


def port_mutant(seed: int, number: int) -> bytes:
    """A file whose declared inputs and outputs have other ranks, types and sizes."""
    rng = np.random.default_rng((seed, number, 3))
    seeds = structure.seeds()
    case = Case(onnx.load_model_from_string(seeds[rng.integers(len(seeds))]), "bytes")
    for _ in range(rng.geometric(0.5)):
        with contextlib.suppress(ValueError, IndexError):
            ports.reshaped(rng, case)
    return case.proto.SerializeToString()


def load_as_advised(seed: int, number: int) -> Any:
    """Load one case with the roles that the errors before advise.

    Raises:
        DecodingError: they end in an error that advises no more.
    """
    from decoding import DecodingError, load

    rng = np.random.default_rng((seed, number, 4))
    changed = port_mutant(seed, number)
    data = changed if rng.random() < 0.7 else roles_of(seed, number)[0]
    graph = onnx.load_model_from_string(data).graph
    names = [port.name for port in (*graph.input, *graph.output)]
    roles: dict[str, Any] = {}
    for _ in range(4):
        try:
            return load(data, threads=1, roles=roles)
        except DecodingError as error:
            if not names or (more := advice.advised(rng, str(error), names)) is None:
                raise
            roles = {**roles, **more}
    return load(data, threads=1, roles=roles)


def used(model: Any) -> Any:
    """Decode a few tokens with a model, where it does not refuse that, and return it."""
    from decoding import DecodingError, Sample, decode

    with contextlib.suppress(DecodingError):
        decode(model, [[0, 1], [2]], Sample(), max_new_tokens=4, seed=1, eos_token_id=None)
    return model


def load_case(kind: str, seed: int, number: int) -> Any:
    """Load one case in this process.

    Raises:
        WronglyAccepted: it was loaded, though it has data in files that it may not read.
        WrongScores: it was loaded, and gives other scores than its cell.
    """
    from decoding import load

    if kind == "bytes":
        return used(load(damaged(seed, number), threads=1))
    if kind == "layouts":
        return layouts.check(layouts.cell(seed, number), verify=number % 2 == 0)
    if kind == "roles" and number % 2:
        return load_as_advised(seed, number)
    if kind == "roles":
        data, roles = roles_of(seed, number)
        return load(data, threads=1, roles=roles)
    case = structure.mutant(seed, number)
    with pool.scratch() as folder:
        source = case.written(folder)
        model = load(source, threads=1)
        if places := case.reads_elsewhere(folder):
            raise pool.WronglyAccepted(f"as {case.form}: data in files that it may not read: {places}")
    return used(model)


def fuzz(seed: int, numbers: range, workers: int = 1, kind: str = "bytes") -> Result:
    """Load these cases in child processes."""
    return pool.run(Path(__file__).resolve(), kind, seed, numbers, workers)


def main() -> int:
    """Run the cases that the command line asks for; 1 where one was a bug or a hang."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kind", choices=KINDS, default="bytes")
    parser.add_argument("--count", "--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", "--workers", type=int, default=1)
    parser.add_argument("--only", type=int, help="load one case in this process")
    parser.add_argument("--child", type=int, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    kind, seed = options.kind, options.seed
    if options.child:

        def case(number: int) -> str:
            load_case(kind, seed, number)
            return "loaded"

        from decoding import load

        # What this imports takes seconds on a busy machine, and is no case's.
        used(load(structure.seeds()[0], threads=1))
        pool.be_child(range(*options.child), case)
        return 0
    if options.only is not None:
        if kind == "structure":
            print(structure.mutant(seed, options.only).notes)
        elif kind == "layouts":
            print(layouts.cell(seed, options.only).notes)
        elif kind == "roles":
            print(roles_of(seed, options.only)[1])
        model = load_case(kind, seed, options.only)
        print(getattr(model, "describe", lambda: model)())
        return 0
    return pool.report(fuzz(seed, range(options.count), options.jobs, kind))


if __name__ == "__main__":
    sys.exit(main())
