"""``make vendor``: takes the console's two libraries from npm, once, and writes down which version and which bytes they are.

What it writes is committed: neither an installation nor CI needs Node. A test holds the files to the manifest.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent / "static" / "vendor"
MANIFEST: Final = "manifest.json"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Files of one npm package, by their paths in it, and the names they get here."""

    package: str
    version: str
    licence: str
    files: tuple[tuple[str, str], ...]


WANTED: Final = (
    Wanted(
        "htmx.org",
        "2.0.11",
        "0BSD",
        (("package/dist/htmx.min.js", "htmx.min.js"), ("package/LICENSE", "htmx.LICENSE.txt")),
    ),
    Wanted(
        "echarts",
        "6.1.0",
        "Apache-2.0",
        (
            ("package/dist/echarts.min.js", "echarts.min.js"),
            ("package/LICENSE", "echarts.LICENSE.txt"),
            ("package/NOTICE", "echarts.NOTICE.txt"),
        ),
    ),
)


def vendor(folder: Path = FOLDER) -> None:
    """Fetch every file anew. Raises ``CalledProcessError`` where npm cannot, and ``KeyError`` where a package has no such file."""
    manifest = []
    for wanted in WANTED:
        with tempfile.TemporaryDirectory() as packed:
            command = ["npm", "pack", "--silent", f"{wanted.package}@{wanted.version}"]
            done = subprocess.run(command, cwd=packed, check=True, capture_output=True, text=True)  # noqa: S603  # fixed words
            archive = Path(packed, done.stdout.split()[-1]).read_bytes()
        written = {}
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for path, name in wanted.files:
                member = tar.extractfile(path)
                if member is None:
                    raise KeyError(path)
                content = member.read()
                (folder / name).write_bytes(content)
                written[name] = sha256(content).hexdigest()
        about = {"package": wanted.package, "version": wanted.version, "licence": wanted.licence}
        manifest.append({**about, "sha256": written})
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    vendor()
    sys.stdout.write(f"written to {FOLDER}\n")
