"""Judges a network's YAML file, and says what it is: layers, shapes, parameters, what a step takes, and what hosts.

Runs where TensorFlow isn't: on the controller, by scripts/network and the playbooks. Ends with 0, or with 2 and one
sentence about what is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from flotilla.job import advice, network_file
from flotilla.job.design import OUTPUT, Design, show
from flotilla.job.errors import ProgramError
from flotilla.job.network_file import NetworkFile
from flotilla.storage import manifest


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or JSON; return the exit status."""
    parser = argparse.ArgumentParser(prog="network", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("file", help="the YAML file, see docs/networks.md")
    parser.add_argument(
        "--data", metavar="FILE", help="the manifest.json of the data set to train on; -: from the standard input"
    )
    parser.add_argument("--json", action="store_true", help="print what playbooks need of it")
    arguments = parser.parse_args(argv)
    try:
        file = network_file.load(arguments.file)
        design = _designed(file, arguments.data)
    except ProgramError as error:
        print(error, file=sys.stderr)
        return error.code
    except OSError as error:
        print(f"{error.filename} can't be read ({error.strerror}): name a manifest.json.", file=sys.stderr)
        return 2
    found = advice.advise(file, design)
    if arguments.json:
        print(json.dumps(_facts(file, design, found)))
    else:
        print("\n".join(table(file, design, found)))
    return 0


def _designed(file: NetworkFile, data: str | None) -> Design:
    if data is None:
        return file.design()
    raw = sys.stdin.buffer.read() if data == "-" else Path(data).read_bytes()
    where = "the data set's manifest" if data == "-" else data
    found = manifest.described(manifest.parse(raw, where).features, file.columns, where)
    return file.design(found.shape, found.classes)


def _facts(file: NetworkFile, design: Design, found: advice.Advice) -> dict[str, object]:
    optimizer = str(file.settings["optimizer"])
    return {
        "columns": list(file.columns),
        "groups": advice.groups(file, found),
        "asked": {"ps": file.servers, **{name: dict(group) for name, group in file.groups.items()}},
        "memory": design.memory(file.batch_size, optimizer, alone=False),
        "batch_size": file.batch_size,
        "says": [*_summary(file, design, found), *file.notes, *found.notes],
    }


def _summary(file: NetworkFile, design: Design, found: advice.Advice) -> list[str]:
    groups = advice.groups(file, found)
    hosts = ", ".join(f"{group['count']} {name} ({group['instance_type']})" for name, group in groups.items())
    return [
        f"The network {file.name}: {design.parameters:,} parameters; {design.flops(file.batch_size) / 1e9:.3g} GFLOP "
        f"and {sum(design.traffic(1)):.3g} megabits a step of {file.batch_size} examples; it asks for {hosts}."
    ]


def table(file: NetworkFile, design: Design, found: advice.Advice) -> list[str]:
    """Return lines for a reader: the layers, and what a training step of one trainer takes."""
    rows = [("layer", "makes", "parameters", "MFLOP an example")]
    rows.append(("columns" if design.columns else "input", show(design.input), "", ""))
    for layer in design.layers:
        norms = 2 * sum(layer.norms)
        count = sum(v.elements for v in layer.variables) + norms
        label = f"{layer.kind} {'(classes)' if layer.name == OUTPUT else layer.name}".strip()
        rows.append((label, show(layer.output), f"{count:,}" if count else "", f"{layer.flops / 1e6:.3g}"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join((row[0].ljust(widths[0]), row[1].ljust(widths[1]), row[2].rjust(widths[2]), row[3].rjust(widths[3])))
        for row in rows
    ]
    batch, optimizer = file.batch_size, str(file.settings["optimizer"])
    traffic = ", ".join(f"{megabits:.3g}" for megabits in design.traffic(found.servers))
    assumed = "" if file.image or file.columns else f" (of {show(design.input)}: the file leaves it to the data)"
    lines += [
        "",
        f"{design.parameters:,} parameters, {4 * design.parameters / 1e6:.3g} MB{assumed}",
        f"a step of {batch} examples: {design.flops(batch) / 1e9:.3g} GFLOP, "
        f"{design.memory(batch, optimizer, True) / 1e6:.3g} MB in one process, "
        f"{design.memory(batch, optimizer, False) / 1e6:.3g} MB in a trainer of a fleet, beside TensorFlow's own",
        f"a trainer's step to and from each of {found.servers} ps: {traffic} megabits",
        f"asks for: {found.servers} ps ({found.server_type}), 1 chief and {found.workers} workers "
        f"({found.trainer_type}, {found.step_secs:.3g} s a step)",
    ]  # fmt: skip
    return [*lines, *file.notes, *found.notes]


if __name__ == "__main__":
    sys.exit(main())
