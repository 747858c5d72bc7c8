"""Other frameworks in environments of their own; files are all that is exchanged with them.

``environments`` finds and makes the environments, ``worker`` runs a script of ``workers/`` in one.
"""

from __future__ import annotations

from quantspectrum.isolation.environments import (
    ENVIRONMENTS,
    EnvironmentSpec,
    find_environment,
    install_environment,
    require_environment,
)
from quantspectrum.isolation.worker import WorkerError, run_worker

__all__ = [
    "ENVIRONMENTS",
    "EnvironmentSpec",
    "WorkerError",
    "find_environment",
    "install_environment",
    "require_environment",
    "run_worker",
]
