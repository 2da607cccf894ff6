"""The version of this package, as it is installed."""

from importlib.metadata import PackageNotFoundError, version

PROJECT = "consistency-lens"


def own_version() -> str:
    try:
        return version(PROJECT)
    except PackageNotFoundError:
        return "not installed"
