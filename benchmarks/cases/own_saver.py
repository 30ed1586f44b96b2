"""Has a CheckpointSaverHook of its own, with a listener."""

from line import arguments, model_fn, tf, train

given = arguments()


class Listener(tf.estimator.CheckpointSaverListener):
    def after_save(self, session, global_step):
        print("saved", int(global_step), flush=True)


hook = tf.estimator.CheckpointSaverHook(given.model_dir, save_steps=5, listeners=[Listener()])
train(tf.estimator.Estimator(model_fn, given.model_dir), given.max_steps, hooks=[hook], listeners=[Listener()])
