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
    from flotilla.model import data, network
    from flotilla.storage import hdfs, manifest
except ModuleNotFoundError:
    sys.exit("the training package isn't installed: run this role's entry point install first.")
try:
    job = config.load(["--config", "/dev/stdin"])
    if job.program:
        program.check(job.program, job.program_root)
    found = hdfs.read_json(hdfs.join(job.model_dir, "model.json"))
    checkpoints.check_model(job.model_dir, found, {"program": job.program_name})
    if not job.max_steps and hdfs.read(hdfs.join(job.data_dir, manifest.NAME)) is not None:
        job = network.with_steps(job, 1 + len(job.cluster.get("worker", [])))
    if outcome.finished(job):
        print("done" if Path(job.done_file).exists() else "done, unmarked")
    else:
        checkpoints.check_steps(job)
        notes = manifest.notes(job.data_dir)
        verified = hdfs.read(hdfs.join(notes, manifest.VERIFIED)) is not None
        staging = "--staging" in sys.argv and not verified
        # Of data that came another way than by role dataset there are no notes.
        if job.program and not (staging or verified) and (hdfs.names(notes) or not hdfs.names(job.data_dir)):
            raise errors.BadInput(
                f"the data set {job.data_dir} isn't staged, or not whole: stage it first (playbooks/stage.yml)."
            )
        if not job.program and not staging:
            dataset, _design = network.designed(job)
            data.check_splits(dataset, job.train_split, job.eval_split)
            data.check_batch(dataset, job.train_split, job.batch_size)
        print("open")
except errors.ProgramError as error:
    sys.exit(str(error))
