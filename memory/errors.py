"""The exceptions of this package: one line each, whose fault it is in the name."""


class StorageError(OSError):
    """The disk or the journal refused an operation; what was asked is not done, the store stays usable."""


class StorageFull(StorageError):
    """No space (or quota) left for a frame: it was not remembered. Goes away by itself once space returns."""


class StorageBusy(StorageError):
    """Another process owns this data folder."""


class JournalDamaged(StorageError):
    """The journal file cannot be read as a database; at the next start its rows are rebuilt from the segment files."""


class TimeNotRising(ValueError):
    """A frame's time is not after the newest remembered frame of its camera; the frame was not remembered."""


class FrameGone(KeyError):
    """No such frame is remembered: never was, evicted since, or found damaged and dropped."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "frame gone"


class RecordDamaged(ValueError):
    """Stored bytes do not match their checksum, length or identity."""


class OtherEncoder(RecordDamaged):
    """Stored vectors are sound but were made by another network; the frame must be encoded again."""
