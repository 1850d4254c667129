"""Jobs on a Ray cluster of two nodes, of which actors and a node are lost: the results are those of one process.

They need Ray (`pip install 'rnn-decoding[ray]'`) and about two minutes; `.ci/ray` runs them. All share one cluster; a node that one of
them removes, the next replaces.
"""

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from decoding import Beam, Ensemble, OptionError, Sample, decode, jobs, load
from decoding.cli.main import main
from decoding.jobs.ray import Decoder
from decoding.jobs.ray import run as run_on_ray

pa = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'rnn-decoding[parquet]'")
OPTIONS = {"max_new_tokens": 60, "seed": 9, "num_return_sequences": 2}
ROWS = 400
COLUMNS = ("id", "rank", "text", "tokens", "logprob", "score", "finish_reason")


def test_a_decoder_needs_no_cluster(tmp_path):
    decoder = Decoder("shakespeare", Sample(), token_logprobs=True, logprobs=2, **OPTIONS | {"max_new_tokens": 5})
    columns = {"id": ["a", "b", "c", "d"], "prompt": ["ROMEO:", "bad \u2028", "JULIET:", None], "other": [1, 2, 3, 4]}
    arrays = {name: np.array(values, dtype=object) for name, values in columns.items()}
    found = decoder(pa.table(columns)).to_pylist()
    assert found == decoder(arrays).to_pylist()
    rows = [{"id": "a", "prompt": "ROMEO:"}, {"id": "c", "prompt": "JULIET:"}]
    jobs.run("shakespeare", rows, tmp_path / "out.jsonl", Sample(), **OPTIONS | {"max_new_tokens": 5})
    expected = {(r["id"], r["rank"]): r for r in map(json.loads, (tmp_path / "out.jsonl").read_bytes().splitlines())}
    good = [row for row in found if row["error"] is None]
    assert len(good) == len(expected) == 4
    assert all({name: row[name] for name in COLUMNS} == expected[row["id"], row["rank"]] for row in good)
    assert {row["id"]: row["error"].split()[0] for row in found if row["error"]} == {"b": "the", "d": "the"}
    assert {len(row["top_logprobs"]) for row in good} == {len(row["token_logprobs"]) for row in good} == {5}


def test_the_ids_and_prompts_of_a_batch_may_be_numbers():
    decoder = Decoder("shakespeare", column="tokens", id_column="key", max_new_tokens=4)
    table = decoder({"key": np.arange(2), "tokens": np.array([[1, 2], [3, 4]])})
    assert table.column("key").to_pylist() == [0, 1]
    assert table.schema.field("tokens").type == pa.list_(pa.int64())


@pytest.mark.parametrize("ids", [[1, None, 2**63], [1.5, None, 1], ["a", None, 2], [None, None, None]], ids=str)
def test_a_bad_id_is_a_bad_row_and_no_other(ids):
    decoder = Decoder("shakespeare", max_new_tokens=3)
    arrays = {"id": np.array(ids, dtype=object), "prompt": np.array(["a", "b", "c"], dtype=object)}
    found = decoder(arrays).to_pylist()
    assert [row["error"] is None for row in found] == [isinstance(id, str) or id in (1, 2) for id in ids]
    assert [row["id"] for row in found if row["error"] is None] == [
        str(id) if "a" in ids else id for id in ids if isinstance(id, str) or id in (1, 2)
    ]


def test_pandas_has_several_values_for_none():
    pd = pytest.importorskip("pandas", reason="needs pandas, which Ray Data brings")
    decoder = Decoder("shakespeare", max_new_tokens=3)
    frame = pd.DataFrame({"id": ["a", "b"], "prompt": ["ROMEO:", None]})
    expected = decoder(pa.table({"id": ["a", "b"], "prompt": ["ROMEO:", None]})).to_pylist()
    assert expected[1]["error"] == "the prompt has no value"
    for kind in ("object", "category", "string"):
        assert decoder(frame.astype({"prompt": kind})).to_pylist() == expected
    assert decoder(frame[:0]).num_rows == 0


def test_a_decoder_makes_an_ensemble_in_each_actor():
    decoder = Decoder(lambda: Ensemble([load("dates"), load("dates")]), Beam(2))
    (row,) = decoder(pa.table({"id": [1], "prompt": ["3 May 1999"]})).to_pylist()
    assert row["text"] == decode("dates", ["3 May 1999"], Beam(2))[0].text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"strategy": Sample()}, "seed=None"), ({"column": "missing"}, "column 'missing'"), ({"sed": 1}, "no option")],
)
def test_a_wrong_argument_of_a_decoder_is_named(arguments, message):
    with pytest.raises(OptionError, match=message):
        Decoder("shakespeare", **arguments)({"id": np.arange(1), "prompt": np.array(["a"])})


def prompts():
    return [f"ROMEO:\nLine {'abcdefgh'[row % 8]}" for row in range(ROWS)]


@pytest.fixture(scope="module")
def ray():
    # Seconds that Ray tries to reach its own processes, which take longer than its 20 to start on a busy machine.
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "120")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    return pytest.importorskip("ray", reason="needs Ray: pip install 'rnn-decoding[ray]'")


class Nodes:
    """A cluster of two nodes on this machine, to which this process is connected."""

    def __init__(self, ray):
        from ray.cluster_utils import Cluster

        self._options = {"num_cpus": 2, "object_store_memory": 100 << 20}
        self._cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **self._options})
        self.second = None
        ray.init(address=self._cluster.address, log_to_driver=False)

    def complete(self):
        """Start the second node where it is not there."""
        if self.second is None:
            self.second = self._cluster.add_node(wait=False, **self._options)
            self._cluster.wait_for_nodes(timeout=180)

    def lose_second(self):
        """End the second node as a machine that fails ends."""
        node, self.second = self.second, None
        self._cluster.remove_node(node, allow_graceful=False)

    def shutdown(self):
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def nodes(ray):
    made = Nodes(ray)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def cluster(ray, nodes):
    nodes.complete()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    yield nodes
    context.checkpoint_config = None


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The records of one process, by id and rank."""
    path = tmp_path_factory.mktemp("one_process") / "out.jsonl"
    jobs.run("shakespeare", prompts(), path, Sample(), **OPTIONS)
    return {(r["id"], r["rank"]): r for r in map(json.loads, path.read_bytes().splitlines())}


def traced(folder, together=1):
    """A decoder that notes in which process, on which node, it runs, and begins when that many do."""

    class Traced(Decoder):
        def __init__(self, **options):
            import ray

            super().__init__(**options)
            (Path(folder) / str(os.getpid())).write_text(ray.get_runtime_context().get_node_id())

        def __call__(self, batch):
            end = time.monotonic() + 120
            while len(list(Path(folder).iterdir())) < together and time.monotonic() < end:
                time.sleep(0.05)
            return super().__call__(batch)

    return Traced


def decoded(ray, folder, blocks=8, actors=2, batch_size=16):
    """The dataset's rows, decoded by actors of which none begins before all have started."""
    rows = [{"id": row, "prompt": prompt} for row, prompt in enumerate(prompts())]
    dataset = ray.data.from_items(rows, override_num_blocks=blocks)
    options = {"model": "shakespeare", "strategy": Sample(), **OPTIONS}
    return dataset.map_batches(
        traced(folder, actors), fn_constructor_kwargs=options, concurrency=actors, batch_size=batch_size, num_cpus=1
    )


def check(rows, expected):
    found = {(row["id"], row["rank"]): {name: row[name] for name in COLUMNS} for row in rows}
    assert len(rows) == len(found) == len(expected)
    assert found == expected


pytestmark = pytest.mark.filterwarnings("default")  # Ray's own


@pytest.mark.parametrize(("blocks", "actors", "batch_size"), [(3, 1, 128), (40, 3, 7)])
def test_partitions_actors_and_batches_change_nothing(blocks, actors, batch_size, ray, cluster, expected, tmp_path):
    check(decoded(ray, tmp_path, blocks, actors, batch_size).take_all(), expected)
    assert len(list(tmp_path.iterdir())) == actors  # the weights were loaded once an actor


def test_an_actor_that_is_killed_half_way_changes_nothing(ray, cluster, expected, tmp_path):
    rows = []
    for number, batch in enumerate(decoded(ray, tmp_path).iter_batches(batch_size=None, batch_format="pyarrow")):
        rows += batch.to_pylist()
        if number == 0:
            os.kill(int(min(tmp_path.iterdir()).name), signal.SIGKILL)
    check(rows, expected)
    assert len(list(tmp_path.iterdir())) > 2  # one was started again


def test_a_node_that_is_removed_half_way_changes_nothing(ray, cluster, expected, tmp_path):
    second, rows = cluster.second.node_id, []
    for number, batch in enumerate(
        decoded(ray, tmp_path, actors=3).iter_batches(batch_size=None, batch_format="pyarrow")
    ):
        rows += batch.to_pylist()
        if number == 0:
            cluster.lose_second()
    check(rows, expected)
    assert second in {path.read_text() for path in tmp_path.iterdir()}  # it had an actor


def test_ray_s_checkpoints_skip_the_rows_that_are_written(ray, cluster, expected, tmp_path):
    """`DataContext.checkpoint_config`: a second execution decodes what the first has not written."""
    from ray.data.checkpoint import CheckpointConfig

    source, output, pids = tmp_path / "in", tmp_path / "out", tmp_path / "pids"
    pids.mkdir()
    ray.data.from_items(
        [{"id": row, "prompt": prompt} for row, prompt in enumerate(prompts())], override_num_blocks=10
    ).write_parquet(str(source))
    context = ray.data.DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(
        id_column="id", checkpoint_path=str(tmp_path / "checkpoint"), delete_checkpoint_on_success=False
    )
    options = {"model": "shakespeare", "strategy": Sample(), **OPTIONS}

    def fails_late(batch):
        if max(batch["id"].tolist()) > 300:
            raise ValueError("the power fails")
        return batch

    def execute(*stages):
        dataset = ray.data.read_parquet(str(source), override_num_blocks=10)
        dataset = dataset.map_batches(
            traced(pids), fn_constructor_kwargs=options, concurrency=2, batch_size=16, num_cpus=1
        )
        for stage in stages:
            dataset = dataset.map_batches(stage)
        dataset.write_parquet(str(output))

    with pytest.raises(Exception, match="the power fails"):
        execute(fails_late)
    written = {path.name for path in output.glob("*.parquet")} if output.exists() else set()
    execute()
    rows = [row for path in sorted(output.glob("*.parquet")) for row in pa.parquet.read_table(path).to_pylist()]
    check(rows, expected)
    assert written <= {path.name for path in output.glob("*.parquet")}


def test_a_job_on_actors_is_that_of_one_process_though_actors_and_a_node_are_lost(ray, cluster, expected, tmp_path):
    output, stop = tmp_path / "out.jsonl", threading.Event()

    def disturb():
        while not (output.exists() and output.stat().st_size) and not stop.is_set():
            time.sleep(0.02)
        cluster.lose_second()

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        report = run_on_ray("shakespeare", prompts(), output, Sample(), actors=3, batch_size=8, **OPTIONS)
    finally:
        stop.set()
        thread.join()
    check([json.loads(line) for line in output.read_bytes().splitlines()], expected)
    assert (report.rows, report.failed, report.sequences) == (ROWS, 0, 2 * ROWS)
    assert jobs.run("shakespeare", prompts(), output, Sample(), **OPTIONS).sequences == 0


def test_the_command_line_decodes_on_a_cluster(ray, cluster, expected, capsys, tmp_path):
    rows = [{"id": row, "prompt": prompt} for row, prompt in enumerate(prompts())]
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, {"id": "bad", "prompt": "\u2028"}])
    )
    arguments = ["--temperature", "1", "--max-new-tokens", "60", "--seed", "9", "-n", "2", "--workers", "2", "--ray"]
    assert main(["batch", "shakespeare", str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), *arguments]) == 0
    assert "1 bad row is" in capsys.readouterr().err
    check([json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()], expected)
