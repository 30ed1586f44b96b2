"""The model as a tf.estimator.Estimator, trained around parameter servers (between-graph replication).

Every trainer computes gradients of its own batches. Asynchronously it applies them to the variables on the parameter
servers at once, and a global step is one batch of one trainer; synchronously the mean of one batch of every trainer is
applied (SyncReplicasOptimizer). No distribution strategy is involved.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import tensorflow as tf

from flotilla.job.cluster import Task
from flotilla.job.config import TrainConfig
from flotilla.job.design import Design
from flotilla.loop.hooks import EndHook, LastCheckpointHook, ReleaseHook, Saver, SaverHook
from flotilla.model import layers, precision
from flotilla.model.data import DataSet

v1 = tf.compat.v1

RECOVERY_WAIT_SECS = 2
STOP_GRACE_SECS = 5

# Makes the hooks of a training from the tensors to report.
MakeHooks = Callable[[dict[str, tf.Tensor]], list[tf.estimator.SessionRunHook]]


def schedule(config: TrainConfig, records: int, trainers: int) -> tuple[list[int], list[float]]:
    """Return the global steps after which the learning rate changes, and the rates (one more)."""
    examples = config.examples_a_step(trainers)
    boundaries = [round(epoch * records / examples) for epoch in config.learning_rate_epochs]
    return boundaries, [config.learning_rate * factor for factor in config.learning_rate_factors]


def learning_rate(config: TrainConfig, records: int, trainers: int, step: tf.Tensor) -> tf.Tensor:
    """Return the rate of a step (a tensor), with a linear warm-up where the configuration asks for one."""
    if config.schedule == "steps":
        boundaries, rates = schedule(config, records, trainers)
        rate = v1.train.piecewise_constant(step, [tf.constant(b, step.dtype) for b in boundaries], rates)
    elif config.schedule == "linear":
        rate = v1.train.polynomial_decay(config.learning_rate, step, config.max_steps, 0.0)
    elif config.schedule == "cosine":
        rate = v1.train.cosine_decay(config.learning_rate, step, config.max_steps)
    else:
        rate = tf.constant(config.learning_rate)
    if config.warmup_steps:
        rate *= tf.minimum(1.0, tf.cast(step + 1, tf.float32) / config.warmup_steps)
    return rate


def optimizer(config: TrainConfig, rate: tf.Tensor) -> tf.compat.v1.train.Optimizer:
    """Return the optimizer that the configuration names."""
    if config.optimizer == "momentum":
        return v1.train.MomentumOptimizer(rate, config.momentum)
    kinds = {
        "sgd": v1.train.GradientDescentOptimizer, "adam": v1.train.AdamOptimizer,
        "rmsprop": v1.train.RMSPropOptimizer, "adagrad": v1.train.AdagradOptimizer,
    }  # fmt: skip
    return kinds[config.optimizer](rate)


def error(loss: str, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean loss of a batch, by the configuration's name of it."""
    if loss == "softmax_cross_entropy":
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
    wanted = tf.one_hot(labels, int(logits.shape[-1]))
    if loss == "sigmoid_cross_entropy":
        return v1.losses.sigmoid_cross_entropy(wanted, logits)
    return v1.losses.hinge_loss(wanted, logits) if loss == "hinge" else v1.losses.mean_squared_error(wanted, logits)


def metrics(design: Design, labels: tf.Tensor, logits: tf.Tensor) -> dict[str, tuple[tf.Tensor, tf.Operation]]:
    """Return the metrics that the network's file names, as Estimator takes them."""
    classes = tf.argmax(logits, axis=1)
    found = {}
    for name in design.metrics:
        if name == "accuracy":
            found[name] = v1.metrics.accuracy(labels, classes)
        elif name == "mean_per_class_accuracy":
            found[name] = v1.metrics.mean_per_class_accuracy(labels, classes, design.classes)
        else:  # top_3_accuracy
            top = tf.math.in_top_k(labels, logits, min(int(name.split("_")[1]), design.classes))
            found[name] = v1.metrics.mean(tf.cast(top, tf.float32))
    return found


def build(
    config: TrainConfig, data: DataSet, design: Design, task: Task, seed: int, make_hooks: MakeHooks | None = None
) -> tf.estimator.Estimator:
    """Return the Estimator; make_hooks is called while the training graph is built."""
    shorten_waits()
    run_config = tf.estimator.RunConfig(
        model_dir=config.model_dir,
        tf_random_seed=seed,
        session_config=session_config(task, config.precision),
        device_fn=placement(task),
        save_checkpoints_steps=config.save_checkpoints_steps,
        keep_checkpoint_max=config.keep_checkpoints,
        save_summary_steps=None,
        log_step_count_steps=None,
        experimental_max_worker_delay_secs=1,
    )
    # Estimator asks for these names.
    return tf.estimator.Estimator(
        lambda features, labels, mode: model_fn(features, labels, mode, config, data, design, task, make_hooks),
        config=run_config,
    )


def session_config(task: Task, chosen: str = "float32") -> tf.compat.v1.ConfigProto:
    """Return the settings of a task's sessions, a ConfigProto."""
    session = precision.settings(chosen)
    session.allow_soft_placement = True
    session.device_filters.extend(task.device_filters)
    session.gpu_options.allow_growth = True
    return session


def placement(task: Task) -> Callable[[tf.Operation], str] | None:
    """Return the device function of a trainer: variables on the parameter servers, all else with the trainer."""
    if not task.cluster.get("ps") or task.type not in ("chief", "worker"):
        return None
    setter: Callable[[tf.Operation], str] = v1.train.replica_device_setter(
        ps_tasks=len(task.cluster["ps"]), worker_device=task.device, ps_strategy=ByLoad(len(task.cluster["ps"]))
    )
    return setter


def saver_model_dir(config: TrainConfig, task: Task) -> str:
    """Return the model directory where parameter servers keep the variables when the chief dies, else nothing.

    In synchronous training the chief also holds the queue of tokens that the trainers wait for.
    """
    return config.model_dir if task.type == "chief" and not config.sync else ""


def last_checkpoint_hooks(
    config: TrainConfig, task: Task, scaffold: tf.compat.v1.train.Scaffold
) -> list[tf.estimator.SessionRunHook]:
    """Return the hook of the worker that saves what was learned when the chief is lost: the first on another host."""
    chief, *workers = (
        address.rsplit(":", 1)[0] for kind in ("chief", "worker") for address in task.cluster.get(kind, ["-"])
    )
    stand_in = next((f"worker-{index}" for index, host in enumerate(workers) if host != chief), None)
    return [LastCheckpointHook(config.model_dir, scaffold)] if task.name == stand_in else []


class ByLoad:
    """Puts the next variable to the parameter server that holds the fewest bytes, as every trainer does.

    After tf.contrib.training.GreedyLoadBalancingStrategy, which went with TensorFlow 1; the default goes round, and
    leaves one server with most of the work where sizes differ.
    """

    def __init__(self, servers: int) -> None:
        self._bytes = [0] * servers

    def __call__(self, variable: tf.Operation) -> int:
        server = self._bytes.index(min(self._bytes))
        if "shape" in variable.node_def.attr:  # a table has none
            elements = math.prod(max(0, dimension.size) for dimension in variable.get_attr("shape").dim)
            self._bytes[server] += elements * tf.as_dtype(variable.get_attr("dtype")).size
        return server


def serving_input(data: DataSet) -> tf.estimator.export.ServingInputReceiver:
    """Return what the SavedModel takes: "image", uint8 [batch, height, width, channels], or columns [batch, values]."""
    if data.columns:
        columns = {
            name: v1.placeholder(column.dtype, [None, column.values], name=name.replace(" ", "_"))
            for name, column in data.columns.items()
        }
        return tf.estimator.export.ServingInputReceiver(columns, columns)
    image = v1.placeholder(tf.uint8, [None, *data.shape], name="image")
    return tf.estimator.export.ServingInputReceiver({"image": image}, {"image": image})


def model_fn(
    features: dict[str, tf.Tensor],
    labels: tf.Tensor,
    mode: str,
    config: TrainConfig,
    data: DataSet,
    design: Design,
    task: Task,
    make_hooks: MakeHooks | None,
) -> tf.estimator.EstimatorSpec:
    """Build the graph of a mode around its input; return an EstimatorSpec."""
    training = mode == tf.estimator.ModeKeys.TRAIN
    trainers = task.trainers if training else 0
    predicting = mode == tf.estimator.ModeKeys.PREDICT
    logits = layers.network(layers.inputs(features, design), design, trainers, packed=not predicting)
    classes = tf.argmax(logits, axis=1)
    if predicting:
        probabilities = tf.nn.sigmoid(logits) if config.loss == "sigmoid_cross_entropy" else tf.nn.softmax(logits)
        predictions = {"class": classes, "probabilities": probabilities, "logits": logits}
        outputs = {"serving_default": tf.estimator.export.PredictOutput(predictions)}
        scaffold = v1.train.Scaffold(saver=layers.Unpacker(sharded=True))
        return tf.estimator.EstimatorSpec(mode, predictions=predictions, export_outputs=outputs, scaffold=scaffold)
    loss = error(config.loss, labels, logits)
    if config.weight_decay:
        loss += config.weight_decay * tf.add_n(v1.get_collection(v1.GraphKeys.REGULARIZATION_LOSSES))
    if single := v1.get_collection(layers.LAYER_LOSSES):
        loss += tf.add_n(single)
    if not training:
        return tf.estimator.EstimatorSpec(mode, loss=loss, eval_metric_ops=metrics(design, labels, logits))
    step = v1.train.get_or_create_global_step()
    rate = learning_rate(config, data.records[config.train_split], task.trainers, step)
    learner = optimizer(config, rate)
    if config.sync:
        learner = v1.train.SyncReplicasOptimizer(learner, task.trainers, task.trainers)
    # Side by side: gradients that waited for the averages would wait for the network, too.
    train = tf.group(learner.minimize(loss, global_step=step), *v1.get_collection(v1.GraphKeys.UPDATE_OPS))
    # Built after minimize(), which makes the optimizer's variables.
    saver = Saver(saver_model_dir(config, task), max_to_keep=config.keep_checkpoints)
    scaffold = v1.train.Scaffold(saver=saver)
    accuracy = tf.reduce_mean(tf.cast(tf.equal(labels, classes), tf.float32))
    hooks = make_hooks({"loss": loss, "accuracy": accuracy, "learning_rate": rate}) if make_hooks else []
    hooks += last_checkpoint_hooks(config, task, scaffold)
    chief_hooks = [SaverHook(config.model_dir, config.save_checkpoints_steps, scaffold), EndHook()]
    if config.sync:
        # At the end it still waits for gradients: that the session is closed is no failure, and no traceback.
        learner.get_chief_queue_runner()._queue_closed_exception_types += (tf.errors.CancelledError,)
        hooks.append(learner.make_session_run_hook(task.leads))
        chief_hooks.append(ReleaseHook(learner.get_init_tokens_op(task.trainers)))
    return tf.estimator.EstimatorSpec(
        mode,
        loss=loss,
        train_op=train,
        scaffold=scaffold,
        training_hooks=hooks,
        training_chief_hooks=chief_hooks,
    )


@functools.lru_cache(maxsize=1)
def shorten_waits() -> None:
    """Change what Estimator has no keys for.

    Trainers notice a late chief or a restarted ps after 2 s, not 30. At the end nobody waits 120 s for the chief's
    thread that hands out SyncReplicasOptimizer's tokens: it waits for gradients, and none come any more.
    """
    from tensorflow.python.training import session_manager, training

    manager = session_manager.SessionManager
    manager.__init__ = functools.partialmethod(manager.__init__, recovery_wait_secs=RECOVERY_WAIT_SECS)
    session = training.MonitoredTrainingSession
    training.MonitoredTrainingSession = functools.partial(session, stop_grace_period_secs=STOP_GRACE_SECS)
