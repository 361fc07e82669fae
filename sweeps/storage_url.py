"""What --storage may be. Imports nothing slow: the command line is checked by it."""

from pathlib import Path
from urllib.parse import urlsplit

from easrec.errors import InputError

_SCHEMES = ("file", "s3", "gs")


def check_storage_url(url: str) -> None:
    """Refuse what cannot name a storage; whether there is one is not asked.

    Raises:
        InputError: it is neither an absolute directory nor a URL of a known kind, names no bucket, or holds
            credentials, which would be printed and recorded with it.
    """
    if url.startswith("/"):
        return
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise InputError(
            f"--storage {url} is neither an absolute directory nor a URL; write /shared/directory, "
            "file:///shared/directory, s3://bucket/prefix or gs://bucket/prefix"
        )
    if "@" in rest.partition("?")[0]:
        raise InputError(
            f"--storage {scheme}://... has credentials in it, which would be recorded; give them by the "
            "environment instead (for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile)"
        )
    if scheme not in _SCHEMES:
        raise InputError(
            f"--storage {url} is of an unknown kind {scheme}://; known are "
            f"{', '.join(f'{known}://' for known in _SCHEMES)} and absolute directories"
        )
    parts = urlsplit(url)
    if scheme == "file" and (parts.netloc or not Path(parts.path).is_absolute()):
        raise InputError(f"--storage {url} names no absolute directory; write file:///shared/directory")
    if scheme != "file" and not parts.netloc:
        raise InputError(f"--storage {url} names no bucket; write {scheme}://bucket/prefix")
