"""Which state of the sources results come from."""

import subprocess
from pathlib import Path

import easrec


def git_commit() -> str:
    """The commit that easrec runs from, with `+changes` for uncommitted ones; `none` outside a checkout."""
    root = Path(easrec.__file__).parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *words], capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return "none"  # no repository, or one that merely contains an installed easrec
    commit = git("rev-parse", "HEAD") or "none"
    return f"{commit}+changes" if git("status", "--porcelain", "--", ".") else commit
