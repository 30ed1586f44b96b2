"""Read a job from stdin, say in one sentence what is wrong with it, and print whether it is done or open."""

import sys

try:
    from flotilla import config, errors, hdfs
except ModuleNotFoundError:
    sys.exit("the training package isn't installed: run this role's entry point install first.")
try:
    job = config.load(["--config", "/dev/stdin"])
    print("done" if hdfs.job_result(job.model_dir, job.max_steps) else "open")
except errors.ProgramError as error:
    sys.exit(str(error))
