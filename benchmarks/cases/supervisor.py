"""Trains under a Supervisor, as TensorFlow's examples of 2016 do, and counts its steps itself."""

import tempfile

import tensorflow.compat.v1 as tf
from by_arguments import join

given, target, place = join()
with tf.device(place):
    global_step = tf.Variable(0, name="global_step", trainable=False)
    x = tf.placeholder(tf.float32, [None, 4])
    weights = tf.Variable(tf.zeros([4, 1]), name="weights")
    loss = tf.reduce_mean(tf.square(tf.matmul(x, weights) - tf.reduce_sum(x, 1, keepdims=True)))
    learn = tf.train.GradientDescentOptimizer(0.1).minimize(loss, global_step=global_step)
    tf.summary.scalar("loss", loss)
    tf.summary.histogram("weights", weights)
supervisor = tf.train.Supervisor(
    is_chief=given.task_index == 0,
    logdir=given.model_dir or tempfile.mkdtemp(),
    init_op=tf.global_variables_initializer(),
    summary_op=None,  # what is fed can't be asked for by its own thread
    recovery_wait_secs=1,
    global_step=global_step,
)
session = supervisor.prepare_or_wait_for_session(target, config=tf.ConfigProto(allow_soft_placement=True))
rows = [[1.0, 2.0, 3.0, 4.0]] * 8
while True:
    _, step = session.run([learn, global_step], feed_dict={x: rows})
    if step >= given.max_steps:
        break
print("loss", session.run(loss, feed_dict={x: rows}))
if not given.ps_hosts:
    supervisor.saver.save(session, supervisor.save_path, global_step)
