"""The versions that a report of a defect should name."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("onnxruntime", "tokenizers", "pyarrow", "numpy", "msgspec", "click")


def package_versions() -> dict[str, str | None]:
    """Give the version of aobatch and of what it runs on, None for what is missing."""
    return {name: _version(name) for name in ("aobatch", *PACKAGES)}


def version_line() -> str:
    """Give the most important ones in a line."""
    found = package_versions()
    names = ("onnxruntime", "tokenizers", "pyarrow")
    parts = [f"{name} {found[name] or '(not installed)'}" for name in names]
    return (
        f"aobatch {found['aobatch']} ({', '.join([f'Python {platform.python_version()}', *parts])})"
    )


def version_facts() -> dict[str, object]:
    """Give all of them, and the platform."""
    found = package_versions()
    return {
        "aobatch": found.pop("aobatch"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": found,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
