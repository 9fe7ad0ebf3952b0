"""Zip the QGIS plugin, as Plugins > Install from ZIP takes it: make qgis-plugin.

python qgis/package.py dist/rscd_provider.zip
"""

import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
PLUGIN = HERE / "rscd_provider"
WANTED = {".py", ".txt"}


def package(target: Path) -> None:
    """Write the zip: the folder rscd_provider, and the licence in it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    files = {path.name: path for path in sorted(PLUGIN.iterdir()) if path.suffix in WANTED}
    files["LICENSE"] = HERE.parent / "LICENSE"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in files.items():
            archive.write(path, f"{PLUGIN.name}/{name}")


if __name__ == "__main__":
    package(Path(sys.argv[1]))
