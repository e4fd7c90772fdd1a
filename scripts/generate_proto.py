"""Generate ``fanout/protocol/client_pb2.py`` and ``.pyi`` from ``client.proto``.

``python scripts/generate_proto.py`` writes them; ``--check`` writes nothing and exits 1 where they are not current.
"""

from __future__ import annotations

import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = "fanout/protocol/client.proto"
OUTPUTS = ("fanout/protocol/client_pb2.py", "fanout/protocol/client_pb2.pyi")


def generate() -> dict[str, bytes]:
    """Return output path (below the root) → bytes; raises RuntimeError when the schema does not compile."""
    with tempfile.TemporaryDirectory() as directory:
        well_known = resources.files("grpc_tools") / "_proto"
        arguments = ["protoc", f"-I{ROOT}", f"-I{well_known}", f"--python_out={directory}", f"--pyi_out={directory}"]
        if protoc.main([*arguments, SCHEMA]) != 0:
            raise RuntimeError(f"{SCHEMA} does not compile")
        return {path: (Path(directory) / path).read_bytes() for path in OUTPUTS}


def main(argv: list[str]) -> int:
    """Write the outputs, or with ``--check`` compare them; returns the exit status."""
    stale = [(path, new) for path, new in generate().items() if _read(ROOT / path) != new]
    for path, new in stale:
        if "--check" in argv:
            print(f"{path} is not current: run python scripts/generate_proto.py")
        else:
            (ROOT / path).write_bytes(new)
            print(f"wrote {path}")
    return 1 if stale and "--check" in argv else 0


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
