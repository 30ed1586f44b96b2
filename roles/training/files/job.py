"""Read a job from stdin, say in one sentence what is wrong with it or its data, and print whether it is open or done.

"done, unmarked" is one whose mark isn't on this host. With --staging the data may still be on their way: what is wrong
with them the tasks will say.
"""

import sys
from pathlib import Path

try:
    from flotilla.adapter import program
    from flotilla.job import config, errors
    from flotilla.loop import checkpoints, outcome
    from flotilla.model import data
    from flotilla.storage import hdfs, manifest
except ModuleNotFoundError:
    sys.exit("the training package isn't installed: run this role's entry point install first.")
try:
    job = config.load(["--config", "/dev/stdin"])
    if job.program:
        program.check(job.program)
    found = hdfs.read_json(hdfs.join(job.model_dir, "model.json"))
    checkpoints.check_model(job.model_dir, found, {"program": job.program_name})
    if outcome.finished(job):
        print("done" if Path(job.done_file).exists() else "done, unmarked")
    else:
        checkpoints.check_steps(job)
        staging = "--staging" in sys.argv and hdfs.read(hdfs.join(job.data_dir, manifest.NAME)) is None
        if not job.program and not staging:
            dataset = data.load(job.data_dir)
            data.check_splits(dataset, job.train_split, job.eval_split)
            data.check_batch(dataset, job.train_split, job.batch_size)
        print("open")
except errors.ProgramError as error:
    sys.exit(str(error))
