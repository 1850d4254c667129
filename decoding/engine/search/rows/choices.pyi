import numpy as np
import numpy.typing as npt

class RowChoices:
    temperature: npt.NDArray[np.float32]
    seeds: npt.NDArray[np.uint64]
    streams: npt.NDArray[np.uint64]
    lengths: npt.NDArray[np.int64]
    was_edited: bool
    def __init__(
        self,
        status: npt.NDArray[np.uint8],
        lengths: npt.NDArray[np.int64],
        logits: npt.NDArray[np.float32],
        tokens: npt.NDArray[np.int64],
        ids: npt.NDArray[np.int64] | None,
        normalizers: npt.NDArray[np.float64] | None,
    ) -> None: ...
    def draws(self) -> npt.NDArray[np.float64]: ...
