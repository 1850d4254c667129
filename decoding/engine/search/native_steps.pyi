from decoding.engine.batch.ensemble import EnsembleBatch
from decoding.engine.batch.host import HostBatch
from decoding.engine.flags import Flag
from decoding.engine.search.rows.sampler import RowSampler

class NativeSteps:
    error: Exception | None
    def __init__(
        self,
        batch: HostBatch | EnsembleBatch,
        sampler: RowSampler,
        stopped: Flag,
        step_by_step: Flag,
        *,
        keeps_states: bool,
    ) -> None: ...
    def take(self, most: int) -> int: ...
    def take_error(self) -> Exception: ...
    def choose_again(self, size: int) -> int: ...
