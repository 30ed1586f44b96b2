"""Read a job from stdin, say in one sentence what is wrong with it, and print whether it is done or open."""

import sys

from flotilla import config, hdfs

try:
    job = config.load(["--config", "/dev/stdin"])
    print("done" if hdfs.job_result(job.model_dir, job.max_steps) else "open")
except (config.ConfigError, hdfs.Unreachable) as error:
    sys.exit(str(error))
