"""Files that are written whole or not at all."""

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replaced(path) -> Iterator[Path]:
    """A new empty file beside `path`, to be written to, that takes its place when the block ends.

    A block that fails or is killed leaves what was there. Otherwise all is as `open(path, "w")`
    leaves it: a new file has the mode that the umask allows, an old one keeps its mode and, where
    that is permitted, its owner; a symbolic link stays and what it points to is replaced. What is
    not a regular file, such as a pipe, is given the contents. Raises OSError where `open` would.

    >>> from tempfile import mkdtemp
    >>> path = mkdtemp() + "/x.txt"
    >>> with replaced(path) as part:
    ...     _ = part.write_text("whole")
    >>> open(path).read()
    'whole'
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        with tempfile.TemporaryDirectory() as folder:
            yield (part := Path(folder, "part"))
            with open(part, "rb") as source, open(target, "wb") as out:
                shutil.copyfileobj(source, out)
        return
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        if old := target.exists():
            open(target, "ab").close()  # what may not be written may not be replaced either
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None
    try:
        like = (target if old else part).stat()
        yield part
        _own(part, like)  # whatever the writer has made of it
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _own(part: Path, like: os.stat_result) -> None:
    """Give a file an owner and a mode; only root may give files away."""
    if hasattr(os, "chown"):
        with contextlib.suppress(PermissionError):
            os.chown(part, like.st_uid, like.st_gid)
    os.chmod(part, stat.S_IMODE(like.st_mode))
