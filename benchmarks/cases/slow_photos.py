"""Prepares photos slowly: ten times as slowly on a host that has /run/slow, and where /run/hang is, one never."""

import io
import os
import time

import numpy as np
from PIL import Image


def prepare(data):
    time.sleep(3 if os.path.exists("/run/slow") else 0.3)
    image = Image.open(io.BytesIO(data))
    while image.width == 17 and os.path.exists("/run/hang"):
        time.sleep(1)
    return np.asarray(image.convert("RGB").resize((8, 8)))
