"""Writes one fixture (model, expected outputs, manifest entry) and checks it with onnxruntime.

Shared by the make_*.py scripts; README.md tells what the manifest's fields mean. Run by itself it writes the
table of README.md anew.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

HERE = Path(__file__).parent
MANIFEST = HERE / "manifest.json"
LENGTHS = (1, 5, 9)
DTYPES = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
    "tensor(int32)": np.int32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_,
}  # fmt: skip


def rng(name):
    """Return a generator that depends on the fixture's name alone."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def add(
    name, model, truth, *, script, exporter, cell, row, vocab, token, out, output="logits", expect="step",
    accept=None, reason=None, run="whole", states=None, feeds=None, roles=None, notes="", tolerance=2e-5,
    lengths=LENGTHS, low=0, batch=1, arrays=None, external=False, original=None, truth_run=None, width=None,
    crashes=False,
    listed=True, generated=None,
):  # fmt: skip
    """Write `name`.onnx, `name`.npz and the manifest entry, then compare onnxruntime with `truth`.

    truth(ids [T]) -> [T, vocab], from the original framework or a NumPy cell. Without it, `original` stands
    in for the file: original(*inputs in graph order) -> outputs in graph order, run as `truth_run` says
    (default: `run`). token and out are (name, layout) pairs; states is {input: (output, batch axis)}; an int
    for a name is a place in the graph's inputs or outputs. arrays are constant inputs and initial states, for
    a batch of 1. generated: outputs of the framework's own decoding, by the names that the tests know.
    """
    model = onnx.load_from_string(model) if isinstance(model, bytes) else model
    _strip(model)
    _shorten(model.graph)
    graph_inputs, graph_outputs = model.graph.input, model.graph.output

    def named(values, name):
        return values[name].name if isinstance(name, int) else name

    token, out = (named(graph_inputs, token[0]), token[1]), (named(graph_outputs, out[0]), out[1])
    states = {named(graph_inputs, i): (named(graph_outputs, o), axis) for i, (o, axis) in (states or {}).items()}
    feeds = {named(graph_inputs, k): v for k, v in (feeds or {}).items()}
    arrays = {named(graph_inputs, k): np.asarray(v) for k, v in (arrays or {}).items()}
    draw, data = rng(name), {f"feed_{k}": v for k, v in arrays.items()} | (generated or {})
    entry = {
        "script": script, "exporter": exporter, "cell": cell, "row": row, "vocab": vocab, "output": output,
        "expect": expect, "accept": accept or [expect], "reason": reason, "run": run, "batch": batch,
        "token": {"name": token[0], "layout": token[1]}, "logits": {"name": out[0], "layout": out[1]},
        "states": {k: {"output": o, "batch_axis": axis} for k, (o, axis) in states.items()},
        "feeds": {**feeds, **{k: "constant" for k in arrays if k not in states}},
        "roles": roles or {}, "tolerance": tolerance, "crashes": crashes, "notes": notes,
    }  # fmt: skip
    if truth is None:
        session = _Original(model.graph, original)
        ran = {**entry, "run": truth_run or run}

        def truth(ids):
            return _run(session, session.kinds, ran, data, ids)

    for i, length in enumerate(lengths):
        ids = draw.integers(low, vocab, length)
        data[f"ids_{i}"], data[f"out_{i}"] = ids, np.asarray(truth(ids)).astype(np.float32)
        if data[f"out_{i}"].shape != (length, width or vocab):
            raise SystemExit(f"{name}: the truth has shape {data[f'out_{i}'].shape}")
    path = HERE / f"{name}.onnx"
    if external:
        (HERE / f"{name}.data").unlink(missing_ok=True)
        onnx.save(model, path, save_as_external_data=True, location=f"{name}.data", size_threshold=128)
    else:
        path.write_bytes(model.SerializeToString(deterministic=True))
    np.savez_compressed(HERE / f"{name}.npz", **data)
    if not listed:
        print(f"{name:36} {path.stat().st_size:7} bytes  {check(name, entry, data)} (not listed)", flush=True)
        return
    manifest = json.loads(MANIFEST.read_text()) if MANIFEST.exists() else {}
    manifest[name] = entry
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(manifest.items())]
    MANIFEST.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{name:36} {path.stat().st_size:7} bytes  {check(name, entry, data)}", flush=True)


class _Original:
    """The original framework's model behind the two methods of an InferenceSession that are used here."""

    def __init__(self, graph, call):
        self.inputs, self.outputs = [i.name for i in graph.input], [o.name for o in graph.output]
        self.call = call
        kinds = {i.name: i.type.tensor_type for i in graph.input}
        self.kinds = {
            k: (
                onnx.helper.tensor_dtype_to_np_dtype(t.elem_type),
                [d.dim_value or d.dim_param for d in t.shape.dim],
            )
            for k, t in kinds.items()
        }

    def run(self, names, inputs):
        values = dict(zip(self.outputs, self.call(*(inputs[k] for k in self.inputs)), strict=True))
        return [values[k] for k in names]


def _strip(model):
    """Drop documentation and traces: they name the files of the machine that exported."""

    def graph(g):
        del g.metadata_props[:]
        g.doc_string = ""
        for value in [*g.input, *g.output, *g.value_info]:
            value.doc_string = ""
            del value.metadata_props[:]
        for tensor in g.initializer:
            del tensor.metadata_props[:]
        nodes(g.node)

    def nodes(items):
        for node in items:
            del node.metadata_props[:]
            node.doc_string = ""
            for attribute in node.attribute:
                for sub in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                    graph(sub)

    graph(model.graph)
    for function in model.functions:
        del function.metadata_props[:]
        del function.value_info[:]
        nodes(function.node)


def _shorten(graph):
    """Shorten the long names of inner values and of nodes that carry no state: TensorFlow's fill a file."""
    kept = {v.name for v in [*graph.input, *graph.output]}
    names = {}

    def short(name):
        if len(name) <= 12 or name in kept:
            return name
        return names.setdefault(name, f"v{len(names)}")

    def walk(g, top):
        for node in g.node:
            node.input[:], node.output[:] = map(short, node.input), map(short, node.output)
            if node.op_type not in ("LSTM", "GRU", "RNN", "Loop", "Scan", "If") and len(node.name) > 12:
                node.ClearField("name")
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    walk(attribute.g, False)
        for value in [*g.initializer, *g.value_info, *([] if top else [*g.input, *g.output])]:
            value.name = short(value.name)

    walk(graph, True)


def _tokens(ids, layout, dtype, vocab):
    if layout.endswith("V"):
        x, layout = np.eye(vocab)[ids], layout[:-1]
    else:
        x = np.asarray(ids)
    axes = {"BT": (0,), "TB": (1,), "B": (), "T": (), "": None}[layout]
    x = x[0] if axes is None else np.expand_dims(x, axes) if axes else x
    return x.astype(dtype)


def _logits(array, layout, row=0):
    """Return [T, V] of row 0 of an output that has this layout."""
    order = "BTV"
    for axis in set(order) - set(layout):
        array, layout = array[None], axis + layout
    return array.transpose([layout.index(a) for a in order])[row]


def check(name, entry, data):
    """Run the file as `entry["run"]` says and compare; return a line that tells the largest difference."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    if entry["crashes"]:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    path, refused = HERE / f"{name}.onnx", None
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        kinds = {i.name: (DTYPES[i.type], i.shape) for i in session.get_inputs()}
        if entry["run"] == "never":
            _run(session, kinds, {**entry, "run": "whole"}, data, data["ids_0"])
    except Exception as error:
        refused = error
    if refused and entry["run"] != "never":
        raise refused
    if entry["run"] == "never":
        if not refused:
            raise SystemExit(f"{name}: onnxruntime was expected to refuse it")
        return f"onnxruntime refuses it: ...{str(refused).splitlines()[0][-70:]}"
    if entry["run"] == "none":
        return "loads; not compared"
    worst = 0.0
    for i in range(sum(k.startswith("ids_") for k in data)):
        if entry["run"].startswith("whole:") and len(data[f"ids_{i}"]) != int(entry["run"][6:]):
            continue
        if entry["run"].startswith("prefix:") and len(data[f"ids_{i}"]) < int(entry["run"][7:]):
            continue
        got, expected = _run(session, kinds, entry, data, data[f"ids_{i}"]), data[f"out_{i}"]
        if got.shape != expected.shape:
            raise SystemExit(f"{name}: onnxruntime gives {got.shape}, expected {expected.shape}")
        worst = max(worst, np.nanmax(np.abs(got - expected)))
    if not worst <= entry["tolerance"]:
        raise SystemExit(f"{name}: onnxruntime differs from the truth by {worst}")
    return f"largest difference {worst:.1e}"


def _run(session, kinds, entry, data, ids):
    token, out, mode, batch = entry["token"], entry["logits"], entry["run"], entry["batch"]
    inputs = {}
    for state in entry["states"]:
        dtype, shape = kinds[state]
        shape = [int(d) if str(d).isdecimal() else 1 for d in shape]  # transformers writes 16 as "16"
        shape[entry["states"][state]["batch_axis"]] = 1
        start = data[f"feed_{state}"] if f"feed_{state}" in data else np.zeros(shape, dtype)
        inputs[state] = np.repeat(start, batch, entry["states"][state]["batch_axis"])

    def once(part, start):
        n = len(part)
        inputs[token["name"]] = _tokens(part, token["layout"], kinds[token["name"]][0], entry["vocab"])
        if batch > 1:
            inputs[token["name"]] = np.repeat(inputs[token["name"]], batch, token["layout"].index("B"))
        for feed, kind in entry["feeds"].items():
            dtype, shape = kinds[feed]
            value = {
                "length": lambda: np.full(1, n), "mask": lambda: np.ones((1, n)),
                "position": lambda: np.arange(start, start + n)[None], "step": lambda: np.full(1, start),
                "constant": lambda feed=feed: data[f"feed_{feed}"],
            }[kind]()  # fmt: skip
            inputs[feed] = value.astype(dtype).reshape([-1] if len(shape) == 1 else value.shape)
        values = session.run([out["name"], *(s["output"] for s in entry["states"].values())], inputs)
        inputs.update(zip(entry["states"], values[1:], strict=True))
        return _logits(values[0], out["layout"])

    if mode.startswith("whole"):
        return once(ids, 0)
    if mode == "steps":
        return np.concatenate([once(ids[t : t + 1], t) for t in range(len(ids))])
    if mode.startswith("prefix:"):  # one length only: only its last position is known
        n = int(mode[7:])
        known = np.full((len(ids), entry["vocab"]), np.nan)
        known[n - 1] = once(ids[:n], 0)[-1]
        return known
    if mode == "prefixes":
        return np.stack([once(ids[: t + 1], 0)[-1] for t in range(len(ids))])
    if mode.startswith("window:"):
        width = int(mode[7:])
        padded = np.concatenate([np.zeros(width, ids.dtype), ids])
        return np.stack([once(padded[t + 1 : t + 1 + width], 0)[-1] for t in range(len(ids))])
    raise SystemExit(f"unknown run: {mode}")


def write_table():
    """Write the table of README.md anew from the manifest."""
    readme = HERE / "README.md"
    head = readme.read_text().split("| fixture |")[0]
    lines = [
        "| fixture | cell | exporter | script | expect | notes |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, e in json.loads(MANIFEST.read_text()).items():
        row = [name, e["cell"], e["exporter"], e["script"], " or ".join(e["accept"]), e["notes"]]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    readme.write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    write_table()
