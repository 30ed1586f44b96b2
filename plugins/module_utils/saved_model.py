# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a SavedModel takes and gives, by its file alone: the controller has no TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping

from ansible_collections.flotilla.kit.plugins.module_utils import untyped

try:
    from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

    HAS_PROTOBUF = True
except ImportError:
    HAS_PROTOBUF = False

NAME = "saved_model.pb"
MOST_BYTES = 100_000_000  # of one that is looked at; variables lie in other files
DEFAULT = "serving_default"
# Of TensorFlow's own messages, the fields that say this: name, number, kind. What ends in "*" is a list, in "{}" a map.
_MESSAGES = {
    "SavedModel": [("meta_graphs", 2, "MetaGraph*")],
    "MetaGraph": [("about", 1, "About"), ("signatures", 5, "Signature{}")],
    "About": [("tags", 4, "string*"), ("version", 5, "string")],
    "Signature": [("inputs", 1, "Tensor{}"), ("outputs", 2, "Tensor{}")],
    "Tensor": [("dtype", 2, "int32"), ("shape", 3, "Shape")],
    "Shape": [("dims", 2, "Dim*"), ("unknown", 3, "bool")],
    "Dim": [("size", 1, "int64")],
}
_KINDS = {"string": 9, "int32": 5, "int64": 3, "bool": 8}  # as protobuf numbers them
_DTYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "text", 9: "int64", 10: "bool",
    14: "bfloat16", 17: "uint16", 19: "float16", 22: "uint32", 23: "uint64",
}  # fmt: skip


def judge(content: bytes, wanted: str, url: str) -> tuple[list[str], list[str]]:
    """Say what a model takes and gives, and what is wrong with it.

    Args:
        content: of its saved_model.pb.
        wanted: the signature that is to be called; empty: whichever is meant.
        url: of the model, for sentences.
    """
    try:
        model = _message("SavedModel").FromString(content)
    except message.DecodeError:
        model = None
    if model is None or not model.meta_graphs:
        return [], [f"{url} (infer_model): its {NAME} is no SavedModel, or a part of one: export it again."]
    graph = next((one for one in model.meta_graphs if "serve" in one.about.tags), model.meta_graphs[0])
    every = {name: one for name, one in graph.signatures.items() if not name.startswith("__")}
    problem = _choose(every, wanted, url)
    if problem:
        return [], [problem]
    name = wanted or (DEFAULT if DEFAULT in every else next(iter(every)))
    of = f", of TensorFlow {graph.about.version}" if graph.about.version else ""
    takes, gives = _listed(every[name].inputs), _listed(every[name].outputs)
    return [f"The model {url} ({name}{of}) takes {takes}, and gives {gives}."], []


def _choose(every: Mapping[str, untyped.Message], wanted: str, url: str) -> str:
    """Say why no signature can be chosen; nothing where one can."""
    names = ", ".join(sorted(every))
    if not every:
        return f"{url} (infer_model) has no signature, so nobody can tell how to call it: export it with one."
    if wanted and wanted not in every:
        return f"{url} (infer_model) has no signature '{wanted}' (infer_signature): there are {names}."
    if not wanted and DEFAULT not in every and len(every) > 1:
        return f"{url} (infer_model) has the signatures {names}: choose one (infer_signature)."
    return ""


def _listed(tensors: Mapping[str, untyped.Message]) -> str:
    """Say names, types and shapes, with ? for sizes that are free."""
    said = []
    for name, one in sorted(tensors.items()):
        sizes = ", ".join("?" if dim.size < 0 else str(dim.size) for dim in one.shape.dims)
        shape = "of any shape" if one.shape.unknown else f"[{sizes}]"
        said.append(f"{name}: {_DTYPES.get(one.dtype, 'another type')} {shape}")
    return "; ".join(said) or "nothing"


def _message(name: str) -> untyped.Message:
    """Return a message's class."""
    pool = descriptor_pool.DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto(name="saved_model", syntax="proto3", package="kit")
    for title, fields in _MESSAGES.items():
        made = file.message_type.add(name=title)
        for field, number, kind in fields:
            many = kind.endswith(("*", "{}"))
            bare = kind.rstrip("*{}")
            added = made.field.add(name=field, number=number, label=3 if many else 1)
            added.type = _KINDS.get(bare, 11)
            if bare not in _KINDS:
                added.type_name = f".kit.{bare}"
            if kind.endswith("{}"):  # a list of pairs
                pair = made.nested_type.add(name=f"{field.capitalize()}Entry")
                pair.options.map_entry = True
                pair.field.add(name="key", number=1, label=1, type=9)
                pair.field.add(name="value", number=2, label=1, type=11, type_name=f".kit.{bare}")
                added.type_name = f".kit.{title}.{pair.name}"
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"kit.{name}"))
