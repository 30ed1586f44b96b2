"""Serves a page on this host alone: a table is dropped on it, a sweep is made of it, started and watched.

Its user reaches it through SSH: ssh -L 8090:127.0.0.1:8090 HOST, then http://127.0.0.1:8090/. It needs no right over
systemd's units: what runs is said by a file (flotilla.sweep.control). PostgreSQL's server is libpq's (PGHOST, PGUSER,
PGPASSFILE).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import logging
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec
from urllib.parse import unquote

from flotilla.job.errors import BadInput, ProgramError
from flotilla.storage.s3 import parse_url
from flotilla.supervision import watchdog
from flotilla.supervision.progress import about
from flotilla.sweep import page_state, plan, report, results
from flotilla.sweep.page_state import Fleet, State
from flotilla.sweep.settings import SweepConfig

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

P = ParamSpec("P")
_log = logging.getLogger(__name__)
LOOK_SECS, ASK_SECS = 0.5, 2.0  # between two looks at files, and at the database
_HERE = r"(127\.0\.0\.1|localhost)(:\d+)?"
# All that the page needs comes from this program; no other page may show it in a frame
_RULES = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'"
_FILES = (report.NAME, results.CSV, results.PARQUET)
_PHASES = {
    "running": ("Running", "primary"), "stopping": ("Stopping", "orange-9"), "stopped": ("Stopped", "orange-9"),
    "failed": ("Failed", "negative"), "done": ("Done", "positive"),
}  # fmt: skip
# QUploader sends a header of the file's name, which has to be ASCII
_HEADERS = ":headers=\"files => [{name: 'X-Name', value: encodeURIComponent(files[0].name)}]\""
_USE = (
    """<q-td :props="props"><q-badge :color="{used: 'positive', label: 'primary'}[props.value] || 'grey-6'" """
    """:label="props.value"/></q-td>"""
)


class Closed:
    """Refuses what isn't asked by a page of this host: another site in its user's browser must not reach the fleet."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        given = {name: [v.decode("latin-1") for n, v in scope["headers"] if n == name] for name in (b"host", b"origin")}
        here = len(given[b"host"]) == 1 and re.fullmatch(_HERE, given[b"host"][0])
        if here and all(re.fullmatch(f"https?://{_HERE}", origin) for origin in given[b"origin"]):

            async def ruled(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], (b"content-security-policy", _RULES.encode())]
                await send(message)

            await self._app(scope, receive, ruled)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"This page answers http://127.0.0.1 alone.\n"})


def _section(key: Callable[[], object], content: Callable[P, None], *given: P.args, **more: P.kwargs) -> None:
    """Show something, and show it anew when its key has changed."""
    from nicegui import ui

    shown, last = ui.refreshable(content), [key()]

    async def look() -> None:
        if (now := key()) != last[0]:
            last[0] = now
            await shown.refresh()  # at once: later, a section around it may have gone

    shown(*given, **more)
    ui.timer(LOOK_SECS, look)


def _page(state: State) -> None:
    from nicegui import ui

    ui.colors(primary="#1b5e8c", positive="#2e7d32", negative="#b3261e")
    ui.query("body").classes("bg-grey-1")
    with ui.column().classes("w-full max-w-6xl mx-auto gap-3"):
        with ui.row().classes("items-baseline gap-3"):
            ui.label("Flotilla").classes("text-2xl font-bold text-primary")
            ui.label("Many small networks on one table").classes("text-lg text-grey-7")
        with ui.tabs().props("align=left no-caps dense").classes("w-full border-b border-gray-300") as tabs:
            mine, new = ui.tab("sweep", "Sweep", "insights"), ui.tab("new", "New sweep", "add_chart")
        _section(lambda: state.sentence, _sentence, state)
        with ui.tab_panels(tabs, animated=False).classes("w-full bg-transparent").props("keep-alive"):
            with ui.tab_panel(mine).classes("p-0 gap-3"):
                _section(lambda: state.config, _sweep, state)
            with ui.tab_panel(new).classes("p-0 gap-3"):
                _section(lambda: state.running, _new, state)
    was = [False]

    def follow() -> None:
        if state.running and not was[0]:  # it begins
            tabs.set_value("sweep")
        was[0] = state.running

    tabs.set_value("sweep" if state.config and not state.source else "new")
    follow()
    ui.timer(LOOK_SECS, follow)


@contextlib.contextmanager
def _card(title: str) -> Iterator[None]:
    from nicegui import ui

    with ui.card().props("flat bordered").classes("w-full gap-2"):
        ui.label(title).classes("text-lg font-medium")
        yield


def _sentence(state: State) -> None:
    from nicegui import ui

    if state.sentence:
        with ui.row().classes("w-full items-center no-wrap bg-red-1 text-red-10 rounded-borders px-4 py-2"):
            ui.icon("error_outline", size="sm")
            ui.label(state.sentence).classes("grow sentence")
            ui.button(icon="close", on_click=lambda: setattr(state, "sentence", "")).props("flat round dense")


# A new sweep


def _new(state: State) -> None:
    from nicegui import ui

    if state.running:
        with _card("A sweep is running"):
            ui.label("Wait until it is done, or stop it, before you make another one.")
        return
    _section(lambda: (state.source, bool(state.looked)), _table, state)
    _section(lambda: state.doing, _doing, state)
    _section(lambda: id(state.looked), _columns, state)
    _section(lambda: (state.source, bool(state.looked)), _networks, state)
    _section(lambda: (id(state.looked), state.ready), _start, state)


def _table(state: State) -> None:
    from nicegui import ui

    if state.source:
        with ui.card().props("flat bordered").classes("w-full"), ui.row().classes("w-full items-center"):
            ui.icon("table_chart", size="md", color="primary")
            ui.label(state.source.data).classes("text-lg font-medium")
            ui.space()
            if state.looked:
                ui.button("Another table", icon="upload_file", on_click=state.drop).props("flat no-caps")
        return
    with _card("Which table?"):
        ui.label("A row for each example, a column for each thing that is known of it, names in the first line.")

        def rejected(event: object) -> None:
            state.sentence = page_state.too_large(str(getattr(event, "args", "")), page_state.MOST_BYTES)

        upload = ui.upload(
            label="Drop a file here, or press +: CSV, TSV, .gz or Parquet, up to 2 GB", auto_upload=True,
            max_file_size=page_state.MOST_BYTES,
        ).props(f"url=/upload send-raw flat bordered {_HEADERS}").classes("w-full")  # fmt: skip
        upload.on("rejected", rejected, js_handler="files => emit(files[0].file.name)")
        upload.on("finish", upload.reset, args=[])
        with ui.row().classes("w-full items-center"):
            address = ui.input("or a file in S3: s3://bucket/folder/file").classes("grow").props("outlined dense")
            ui.button("Fetch", icon="cloud_download", on_click=lambda: state.bring(address.value)).props("no-caps flat")


def _doing(state: State) -> None:
    from nicegui import ui

    if state.doing:
        with ui.row().classes("w-full items-center px-4 doing"):
            ui.spinner(size="sm")
            ui.label(f"{state.doing} …")
            give_up = ui.button("Give up", on_click=state.give_up).props("flat dense no-caps")
            give_up.bind_visibility_from(state, "asks")


def _columns(state: State) -> None:
    from nicegui import ui

    if not (looked := state.looked):
        return
    with _card("Its columns"):
        for line in looked.says:
            ui.label(line).classes("text-grey-8")
        if looked.wrong:
            ui.label(looked.wrong).classes("text-negative font-medium sentence")
            return
        heads = {
            "name": "column", "use": "", "kind": "type", "missing": "missing", "distinct": "different",
            "values": "values", "becomes": "what becomes of it",
        }  # fmt: skip
        right = ("missing", "distinct")
        shown = ui.table(
            columns=[
                {"name": key, "label": head, "field": key, "align": "right" if key in right else "left"}
                for key, head in heads.items()
            ],
            rows=looked.rows, row_key="name", pagination=20 if len(looked.rows) > 20 else None,
        ).props("flat dense wrap-cells").classes("w-full columns")  # fmt: skip
        shown.add_slot("body-cell-use", _USE)


def _networks(state: State) -> None:
    from nicegui import ui

    if not state.looked:
        return
    with _card("The networks"):
        with ui.row().classes("w-full items-start gap-4"):
            ui.input("name").props("outlined dense").classes("w-44").bind_value(state, "name")
            ui.select(list(state.looked.columns), label="label: the column to predict", with_input=True).props(
                "outlined dense"
            ).classes("w-64 label").bind_value(state, "label")
            ui.number("networks", min=1, step=1).props("outlined dense").classes("w-32").bind_value(state, "trials")
            ui.number("epochs of each", min=0).props("outlined dense").classes("w-32").bind_value(state, "epochs")
            ways = {plan.RANDOM: "random", plan.GRID: "grid: all", plan.TPE: "TPE: learns from the others"}
            ui.select(ways, label="how they are chosen").props("outlined dense").classes("w-56").bind_value(
                state, "how"
            )
        ui.label("What varies, and all else, stands in the sweep's file. Edit it where you want to vary more:").classes(
            "text-grey-8"
        )
        ui.codemirror(language="YAML", line_wrapping=True).classes("w-full border border-gray-300 h-64").bind_value(
            state, "text"
        )
        ui.label().classes("text-negative sentence").bind_text_from(state, "wrong").bind_visibility_from(state, "wrong")


def _start(state: State) -> None:
    from nicegui import ui

    if not state.looked:
        return
    with _card("Check, then start"):
        if ready := state.ready:
            with ui.column().classes("gap-1 checked"):
                for line in ready.says:
                    ui.label(line).classes("font-medium" if line == ready.says[-1] else "text-grey-8")
                if ready.stored:
                    ui.label(f"All of it is stored already, in {ready.config.target}.").classes("font-medium")
        else:
            ui.label("Some of the networks are tried, to say how long all take. Nothing is written yet.").classes(
                "text-grey-8"
            )
        with ui.row():
            check = ui.button("Check", icon="fact_check", on_click=state.check).props("no-caps outline")
            check.bind_enabled_from(state, "doing", lambda doing: not doing)
            start = ui.button("Start", icon="play_arrow", on_click=lambda: ready and state.start(ready.config))
            start.props("no-caps").set_enabled(ready is not None)


# The sweep that runs, or the last one


def _sweep(state: State) -> None:
    from nicegui import ui

    if not (config := state.config):
        with _card("No sweep yet"):
            ui.label("Make one under 'New sweep', or by playbooks/sweep.yml.")
        return
    name = config.target.rstrip("/").rpartition("/")[2]
    with ui.card().props("flat bordered").classes("w-full gap-2"):
        with ui.row().classes("w-full items-center"):
            ui.label(name).classes("text-xl font-medium")
            _section(lambda: state.phase, _phase, state)
            ui.space()
            _section(lambda: state.phase, _buttons, state, config)
        _section(lambda: _facts(state), _bar, state)
        _section(lambda: state.phase, _over, state, config)
        with ui.expansion(f"Its file, {Path(config.sweep).name}", icon="description").classes("w-full").props("dense"):
            try:
                ui.code(Path(config.sweep).read_text(encoding="utf-8"), language="yaml").classes("w-full")
            except (OSError, UnicodeDecodeError):
                ui.label("It isn't on this host any more.")
    with _card("The best networks"):
        _section(lambda: (state.best, state.trouble), _best, state)
    with _card("Pictures, and all networks"):
        _section(lambda: (state.drawn, state.undrawn), _pictures, state)


def _phase(state: State) -> None:
    from nicegui import ui

    word, color = _PHASES.get(state.phase, (state.phase, "grey"))
    ui.badge(word, color=color).classes("text-sm px-2 py-1 phase")


def _buttons(state: State, config: SweepConfig) -> None:
    from nicegui import ui

    if state.running:
        with ui.dialog() as dialog, ui.card():
            ui.label("Stop the sweep? What is done stays.")
            with ui.row().classes("w-full justify-end"):
                ui.button("No", on_click=dialog.close).props("flat no-caps")
                ui.button("Yes, stop it", on_click=state.stop).props("no-caps color=negative")
        ui.button("Stop", icon="stop", on_click=dialog.open).props("no-caps outline color=negative")
    elif state.phase in ("stopped", "failed"):
        ui.button("Go on", icon="play_arrow", on_click=lambda: state.start(config)).props("no-caps")


def _facts(state: State) -> tuple[float | None, list[str], str]:
    """Return the share that is done, how far the sweep is, and what is said of it."""
    found = state.report
    if not found:
        return None, [], "It was begun; the lead hasn't answered yet." if state.running else ""
    done, total = found["done"], found["total"]
    facts = [f"{done:,.0f} of {total:,.0f} networks"]
    if found["rate"]:
        facts.append(f"{found['rate']:.3g} a minute")
    if found["eta"] and state.running:
        facts.append(f"about {about(found['eta'])} left")
    if failed := found["detail"].get("failed"):
        facts.append(f"{failed} failed")
    if early := found["detail"].get("ended early"):
        facts.append(f"{early} ended early")
    message = found["message"]
    silent = time.time() - found["updated"]
    if state.running and silent > page_state.SILENT_SECS:
        message = f"There is no news from the lead since {about(silent)}: scripts/logs sweep says why."
    if state.phase == "stopped":
        message = "What is done stays, and 'Go on' takes it from here."
    return done / total if total else None, facts, f"{message[:1].upper()}{message[1:]}"


def _bar(state: State) -> None:
    from nicegui import ui

    share, facts, message = _facts(state)
    progress = ui.linear_progress(share or 0, show_value=False, size="14px").props("rounded instant-feedback")
    progress.props("indeterminate" if share is None and state.running else f"aria-valuenow={share or 0}")
    with ui.row().classes("gap-6 facts"):
        for fact in facts:
            ui.label(fact).classes("font-medium")
    if message and state.phase != "done":
        ui.label(message).classes("text-negative" if state.phase == "failed" else "text-grey-8")


def _over(state: State, config: SweepConfig) -> None:
    from nicegui import ui

    if state.phase == "done":
        ui.label(f"All is stored in {config.target}. To copy it:").classes("stored")
        ui.code(f"aws s3 sync {config.target} sweep", language="bash").classes("w-full")


def _best(state: State) -> None:
    from nicegui import ui

    if state.trouble:
        ui.label(state.trouble).classes("text-negative sentence")
    if not state.best:
        ui.label("No network is done yet.").classes("text-grey-8")
        return
    names = list(dict.fromkeys(name for one in state.best for name in one.parameters))
    heads = ["network", "score", *names, "seconds", "weights", "host"]
    rows = [
        [
            f"{one.number}", f"{one.score:.4f}" if one.score is not None else "",
            *(_cell(one.parameters.get(name, "")) for name in names),
            f"{one.seconds or 0:.2f}", f"{one.parameters_count or 0:,}", one.host,
        ]
        for one in state.best
    ]  # fmt: skip
    ui.table(
        columns=[{"name": str(n), "label": head, "field": str(n), "align": "left"} for n, head in enumerate(heads)],
        rows=[{str(n): cell for n, cell in enumerate(row)} for row in rows], row_key="0",
    ).props("flat dense wrap-cells").classes("w-full best")  # fmt: skip


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _pictures(state: State) -> None:
    from nicegui import ui

    if state.undrawn:
        ui.label(state.undrawn).classes("text-negative")
    if not state.drawn or state.drawn[0] != state.config:
        ui.label("They are made when some networks are done, and then every half minute.").classes("text-grey-8")
        return
    _config, done, phase = state.drawn
    ui.link("open them in a tab of their own", "/result/", new_tab=True).classes("text-primary")
    ui.element("iframe").props(
        f'src="/result/?{phase}-{done:.0f}" sandbox="allow-scripts allow-downloads" title="pictures"'
    ).classes("w-full border border-gray-300").style("height: 80vh")


def _serve(state: State, port: int) -> None:
    """Serve the page until the process is told to end."""
    from nicegui import app, background_tasks, binding, ui
    from nicegui.client import Client
    from starlette.requests import ClientDisconnect
    from starlette.responses import FileResponse, PlainTextResponse

    async def upload(request: Request) -> Response:
        try:
            size = int(request.headers.get("content-length", 0))
            await state.receive(unquote(request.headers.get("x-name", "")), size, request.stream())
        except ProgramError as error:
            state.sentence = str(error)
            return PlainTextResponse(str(error), 400)
        except ClientDisconnect:
            return PlainTextResponse("", 400)
        return PlainTextResponse("")

    async def result(request: Request) -> Response:
        name = request.path_params["name"] or report.NAME
        if name not in _FILES or not (state.result / name).is_file():
            return PlainTextResponse("There is no such file here, or not yet.", 404)
        return FileResponse(state.result / name, headers={"cache-control": "no-store"})

    async def follow(what: Callable[[], Awaitable[None]], seconds: float, always: bool) -> None:
        while True:
            if always or any(one.has_socket_connection for one in Client.instances.values()):
                try:
                    await what()
                except Exception:  # which must not be the last look
                    _log.exception("%s failed", what)
            await asyncio.sleep(seconds)

    def begin() -> None:
        background_tasks.create(follow(state.tick, LOOK_SECS, always=True))
        for look in (state.see_best, state.draw):
            background_tasks.create(follow(look, ASK_SECS, always=False))

    binding.MAX_PROPAGATION_TIME = 5.0  # seconds, from which on it warns: a busy host is no news
    ui.page("/", title="Sweeps")(functools.partial(_page, state))
    app.add_route("/upload", upload, methods=["POST"])
    app.add_route("/result/{name:path}", result)
    app.add_middleware(Closed)
    app.on_startup(begin)
    app.on_shutdown(state.give_up)
    ui.run(
        host="127.0.0.1", port=port, title="Sweeps", favicon="⛵", language="en-US", show=False, reload=False,
        show_welcome_message=False, timeout_graceful_shutdown=2, reconnect_timeout=10,
    )  # fmt: skip


def _check(slots: int, hourly: float, config: SweepConfig) -> dict[str, object]:
    from flotilla import sweeper  # a program too: it alone knows how a sweep is tried

    return sweeper.check(config, slots, hourly)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to end; return 2 and one sentence for what can't be served."""
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    parser = argparse.ArgumentParser(prog="python -m flotilla.sweep_page", description=__doc__)
    parser.add_argument("--folder", required=True, type=Path, help="where this host's programs keep their files")
    parser.add_argument("--target", required=True, metavar="URL", help="s3://bucket/prefix/, a folder a sweep in it")
    parser.add_argument("--shared", required=True, metavar="URL", help="a folder that all hosts see, for tables")
    parser.add_argument("--trial-secs", type=float, default=900, metavar="N", help="seconds that a network may take")
    parser.add_argument("--slots", type=int, default=1, metavar="N", help="how many workers there are")
    parser.add_argument("--hourly", type=float, default=0, metavar="$", help="what the fleet costs an hour")
    parser.add_argument("--port", type=int, default=8090, metavar="N", help="of 127.0.0.1")
    args = parser.parse_args(argv)
    watchdog.beat()
    try:
        parse_url(args.target)
        if not args.folder.is_dir():
            raise BadInput(f"There is no folder {args.folder}: name one (--folder).")
        fleet = Fleet(args.folder, args.target, args.shared, args.trial_secs)
        _serve(State(fleet, functools.partial(_check, args.slots, args.hourly)), args.port)
    except ProgramError as error:
        print(f"flotilla.sweep_page: {error}", file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
