"""Arrays of any type, for what no type can say more of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Arrays = dict[str, Array]  # by the name of a model's input or output
