#!/usr/bin/env bash
# NiceGUI 3.18.0, installed by uv 0.13.8 with --link-mode symlink, as an image builder's shared cache wants it. Needs
# Python 3.11.
#
# A good guess: how an installer links a package's files doesn't matter to the package.
# Seen: the page comes, and most of its parts do; but an element whose script is an ES module, such as ui.codemirror,
# stays empty without a word on the page or in the program's log: its module is answered by 403, since the link leads out
# of the package's folder. Components that are single files are served through the same links. With --link-mode copy all
# is there.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/uv"
"$folder/uv/bin/pip" install --quiet --disable-pip-version-check uv==0.13.8
cd "$folder"
cat >ask.py <<'END'
import re

from fastapi import FastAPI
from fastapi.testclient import TestClient
from nicegui import ui


@ui.page("/")
def page() -> None:
    ui.codemirror("a: 1")
    ui.table(rows=[{"a": 1}])


server = FastAPI()
ui.run_with(server)
with TestClient(server) as client:
    text = client.get("/").text
    urls = {kind: re.search(rf"/_nicegui/[^\"']*/{kind}[^\"']*", text) for kind in ("esm", "components")}
    esm = urls["esm"][0].rstrip("/")
    print("module", client.get(esm if esm.endswith(".js") else f"{esm}/index.js").status_code)
    print("component", client.get(re.search(r"/_nicegui/[^\"']*/table\.js", text)[0]).status_code)
END
for mode in copy symlink; do
  uv/bin/uv venv --quiet --python python3.11 "$mode"
  uv/bin/uv pip install --quiet --cache-dir cache --python "$mode/bin/python" --link-mode "$mode" nicegui==3.18.0
  "$mode/bin/python" ask.py >"$mode.said" 2>"$mode.log" || { cat "$mode.log"; exit 1; }
  sed "s/^/$mode: /" "$mode.said"
done
diff copy.said - <<'END'
module 200
component 200
END
diff symlink.said - <<'END'
module 403
component 200
END
echo "as seen"
