#!/usr/bin/env bash
# Pillow 12.3.0: a TIFF with 16 bits a colour in planes (PlanarConfiguration 2), as microscopes' programs write it.
# Needs Python 3.11.
#
# A good guess: Pillow reads 16 bits a colour side by side (it keeps the upper 8), and 8 bits in planes, so it reads 16
# bits in planes, or refuses them.
# Seen: of an uncompressed one it makes an RGB image without a word, whose pixels are wrong: of a whole image of the
# colour (200, 100, 50), half of the pixels are black. With LZW the same image is right. tifffile reads both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  pillow==12.3.0 tifffile==2025.5.10 imagecodecs==2025.3.30 numpy==1.26.4
cd "$folder"
cat >planes.py <<'END'
import io

import numpy as np
import tifffile
from PIL import Image

colour = np.array([200, 100, 50], np.uint16) * 256
planes = np.broadcast_to(colour[:, None, None], (3, 6, 6)).copy()
for compression in (None, "lzw"):
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(planes, photometric="rgb", planarconfig="separate", compression=compression)
    pixels = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB")).reshape(-1, 3)
    right = int((pixels == (200, 100, 50)).all(axis=1).sum())
    back = bool((tifffile.imread(io.BytesIO(file.getvalue())) == planes).all())
    print(compression, "right:", right, "of", len(pixels), "tifffile:", back)
END
venv/bin/python planes.py | tee log
grep -qx "None right: 18 of 36 tifffile: True" log
grep -qx "lzw right: 36 of 36 tifffile: True" log
echo "as seen"
