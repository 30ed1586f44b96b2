"""Is told its cluster by arguments, as TensorFlow 1's examples are."""

import tensorflow.compat.v1 as tf
from by_arguments import join

given, target, place = join()
with tf.device(place):
    x = tf.random.uniform([32, 4])
    weights = tf.get_variable("weights", [4, 1])
    loss = tf.reduce_mean(tf.square(tf.matmul(x, weights) - tf.reduce_sum(x, 1, keepdims=True)))
    step = tf.train.get_or_create_global_step()
    learn = tf.train.GradientDescentOptimizer(0.1).minimize(loss, global_step=step)
hooks = [tf.train.StopAtStepHook(last_step=given.max_steps)]
with tf.train.MonitoredTrainingSession(
    master=target, is_chief=given.task_index == 0, checkpoint_dir=given.model_dir, hooks=hooks
) as session:
    while not session.should_stop():
        session.run(learn)
