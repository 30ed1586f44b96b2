"""Write a model that tells the brightest colour, and 96 photos in a folder for each, to HDFS."""

import io
import sys
import tempfile
from pathlib import Path

import tensorflow as tf
from flotilla.storage.files import open_folder
from PIL import Image

COLOURS = {"blue": (5, 10, 220), "green": (10, 210, 20), "red": (200, 10, 20)}
target = open_folder("hdfs://ps-0:8020/user/flotilla/molecule")
if "photos/red/broken.png" in target.sizes():
    sys.exit()


class Brightest(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.uint8, name="image")])
    def colour(self, image):
        logits = tf.reduce_mean(tf.cast(image, tf.float32), [1, 2]) / 10
        return {"probabilities": tf.nn.softmax(tf.gather(logits, [2, 1, 0], axis=1))}


with tempfile.TemporaryDirectory() as folder:
    module = Brightest()
    tf.saved_model.save(module, folder, {"serving_default": module.colour})
    for file in Path(folder).rglob("*"):
        if file.is_file():
            target.write(f"model/{file.relative_to(folder).as_posix()}", [file.read_bytes()])
for number in range(96):
    name = list(COLOURS)[number % 3]
    out = io.BytesIO()
    Image.new("RGB", (16, 16), COLOURS[name]).save(out, "PNG")
    target.write(f"photos/{name}/{number:03}.png", [out.getvalue()])
target.write("photos/red/broken.png", [b"no photo"])
