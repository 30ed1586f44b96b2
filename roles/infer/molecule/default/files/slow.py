"""Prepare a photo as the kit would, but slowly, so that there is time to kill who does it."""

import io
import time

import numpy as np
from PIL import Image


def prepare(data):
    time.sleep(0.3)
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((8, 8)))
