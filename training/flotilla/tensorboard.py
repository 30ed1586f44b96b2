"""TensorBoard on loopback that can read hdfs://, and leaves the GPUs to the training.

Its other options can be given, too (--reload_interval …); --host can't.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until it is stopped; return the exit status."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    # Before TensorBoard: from now on TensorFlow knows hdfs://.
    import tensorflow_io  # noqa: F401
    from tensorboard import default, program

    given = sys.argv[1:] if argv is None else argv
    server = program.TensorBoard(plugins=default.get_plugins())
    # The fast loader is a program of its own, which doesn't know hdfs://.
    server.configure(["tensorboard", *given, "--host=127.0.0.1", "--load_fast=false"])
    status: int = server.main()
    return status


if __name__ == "__main__":
    sys.exit(main())
