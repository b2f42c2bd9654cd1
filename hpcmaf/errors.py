"""Everything that can go wrong in a way the user can mend, and its exit code.

One line per error: what is wrong, where, and what to do. The command line
prints that line and leaves with the class's exit code; a traceback means a
defect of this program.
"""

from __future__ import annotations


class HpcmafError(Exception):
    """Base of all errors meant for the user; never raised itself."""

    exit_code = 1


class UsageError(HpcmafError):
    """A command was called with arguments that make no sense (click's own code)."""

    exit_code = 2


class ConfigError(HpcmafError):
    """A recipe, profile or override is malformed or asks for the impossible."""

    exit_code = 3


class DataError(HpcmafError):
    """A data file is missing, torn or not in a layout its loader knows."""

    exit_code = 4


class LeakError(HpcmafError):
    """Evaluation questions occur among the training questions."""

    exit_code = 5


class StoreError(HpcmafError):
    """A debate store is damaged, incomplete or of a foreign schema."""

    exit_code = 6


class PlanChangedError(HpcmafError):
    """A run directory was made by another plan than the one asked for now."""

    exit_code = 7


class StageError(HpcmafError):
    """A stage of a run failed; its message names the log."""

    exit_code = 8


class RunBusyError(HpcmafError):
    """Another process is already driving this run."""

    exit_code = 9


class TrainingError(HpcmafError):
    """Finetuning cannot start or go on."""

    exit_code = 10


class EngineError(HpcmafError):
    """A generation engine cannot start or refused a request."""

    exit_code = 11


class PlatformError(HpcmafError):
    """The machine lacks something that was asked for: a package, a device, disk space."""

    exit_code = 12
