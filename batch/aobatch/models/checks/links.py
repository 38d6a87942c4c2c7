"""Files of a hub's cache, which keeps contents apart from their names."""

import os
from pathlib import Path


def own_file(path: Path) -> Path:
    """Give the content of a file of a hub's cache; any other path as it is.

    `models--ORG--NAME/snapshots/REVISION/FILE` is a link into `models--ORG--NAME/blobs`. Only such
    a link to such a place is followed, one step, so that nothing leaves the cache of one model:
    whatever else is a link is refused where it is read.
    """
    try:
        target = Path(os.path.normpath(path.parent.resolve() / path.readlink()))
    except OSError:
        return path
    snapshots = next((p for p in path.parent.resolve().parents if p.name == "snapshots"), None)
    if snapshots is None or not snapshots.parent.name.startswith("models--"):
        return path
    return target if target.parent == snapshots.parent / "blobs" else path
