"""What a learner keeps between two steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamproc.learning.calibration import Calibration
from streamproc.learning.evaluation import Evaluation
from streamproc.learning.importance_step import ImportanceState
from streamproc.learning.kept_model import Categories, KeptModel
from streamproc.learning.learning_step import Block
from streamproc.learning.racing import RaceState
from streamproc.operators.pending import Pending
from streamproc.operators.row_store import RowStore

Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class LearnState:
    """The models of a task and what waits for them.

    models      None for one that has left its race
    categories  per input its texts, None for numbers; the last one is the segments
    kept        float64[places, inputs + 5, + 2 where scores are calibrated, + models of a race, + models * inputs where
                importance is measured]: what is remembered of each waiting row
    """

    models: list[KeptModel | None]
    pending: Pending
    categories: list[Categories | None]
    kept: Floats
    block: Block
    evaluation: Evaluation
    calibration: Calibration | None
    race: RaceState | None
    importance: ImportanceState | None
    reports: int
    passed: int
    in_order: int
    left_waits: RowStore
    right_waits: RowStore | None
