"""What is said of a storage that does not do what it should. Imports nothing slow."""


class StorageError(OSError):
    """The storage does not do what it is asked, and has been asked for a while."""
