"""Instruments, which show, log and measure what an executor's jobs do.

Each is an object for ``Executor(instruments=[...])``, and may serve several executors. They use the
public API alone, as any user's instrument can. A third-party package is imported with the
instrument that needs it.

::

    timeline = Timeline()
    async with Executor(slots=4, instruments=[timeline]) as executor:
        ...
    print(timeline)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._logging import Logging
    from ._opentelemetry import OpenTelemetry
    from ._progress import Progress
    from ._prometheus import Prometheus
    from ._timeline import Timeline

__all__ = ("Logging", "OpenTelemetry", "Progress", "Prometheus", "Timeline")

# The third-party package that each needs, and the extra that installs it.
_NEEDS = {
    "OpenTelemetry": ("opentelemetry", "opentelemetry"),
    "Progress": ("rich", "progress"),
    "Prometheus": ("prometheus_client", "prometheus"),
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"._{name.lower()}", __name__)
    except ModuleNotFoundError as error:
        needed, extra = _NEEDS.get(name, (None, None))
        if needed is None or (error.name or "").partition(".")[0] != needed:
            raise
        raise ModuleNotFoundError(
            f"{name} needs {needed}, which is not installed: pip install 'anyslots[{extra}]'",
            name=error.name,
        ) from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
