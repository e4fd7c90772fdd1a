"""Serve the browser example on http://127.0.0.1:8080/, with the stock SDK out of an installed npm package.

fanout serve --insecure                       (in another terminal)
npm ci --prefix tests/acceptance/sdk
python examples/browser/serve.py [--port 8080] [--sdk DIRECTORY/node_modules]
"""

from __future__ import annotations

import argparse
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).resolve().parent
SDK = HERE.parents[1] / "tests" / "acceptance" / "sdk" / "node_modules"


class Handler(SimpleHTTPRequestHandler):
    """Two files: the page, and the SDK's browser build beside it."""

    def __init__(self, *args: object, sdk: Path, **options: object) -> None:
        self.sdk = sdk
        super().__init__(*args, **options)  # type: ignore[arg-type]

    def translate_path(self, path: str) -> str:
        """Return the file behind a path; anything else does not exist."""
        name = path.partition("?")[0]
        if name == "/centrifuge.js":
            return str(self.sdk / "centrifuge" / "dist" / "centrifuge.js")
        return str(HERE / ("index.html" if name in ("/", "/index.html") else "no such file"))


def main() -> None:
    """Serve until interrupted."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--port", type=int, default=8080, help="0 = any free port")
    options.add_argument("--sdk", type=Path, default=SDK, help="node_modules with the package centrifuge")
    chosen = options.parse_args()
    if not (chosen.sdk / "centrifuge").is_dir():
        options.error(f"{chosen.sdk} has no package centrifuge: npm ci --prefix tests/acceptance/sdk")
    with ThreadingHTTPServer(("127.0.0.1", chosen.port), partial(Handler, sdk=chosen.sdk)) as server:
        print(f"open http://127.0.0.1:{server.server_port}/?room=open:lobby", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("bye")


if __name__ == "__main__":
    main()
