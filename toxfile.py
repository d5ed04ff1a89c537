"""The closing line of a tox run: which environments ran, how they ended, and which were skipped.

tox reads this file as an inline plugin. Nothing but that line lives here. It is printed when tox exits, so that it
stands below tox's own report, and only when environments were started (not for `tox list`).
"""

from __future__ import annotations

import atexit
from typing import TYPE_CHECKING

from tox.plugin import impl
from tox.tox_env.errors import Fail, Skip
from tox.tox_env.python.api import Python
from tox.tox_env.runner import RunToxEnv

if TYPE_CHECKING:
    from tox.execute import Outcome
    from tox.tox_env.api import ToxEnv

_SKIPPED = "skipped"
_ENDED: dict[str, str] = {}
"""Environment to how it ended, in the order in which they ended."""


@impl
def tox_after_run_commands(tox_env: ToxEnv, exit_code: int, outcomes: list[Outcome]) -> None:
    """Note an environment whose commands ran."""
    _ENDED[tox_env.name] = f"{tox_env.name} FAILED" if exit_code else tox_env.name


@impl
def tox_env_teardown(tox_env: ToxEnv) -> None:
    """Note an environment that ended before its commands ran; tox calls this for each environment."""
    if isinstance(tox_env, RunToxEnv) and tox_env.name not in _ENDED:
        _ENDED[tox_env.name] = f"{tox_env.name} NOT SET UP" if _has_interpreter(tox_env) else _SKIPPED


def _has_interpreter(tox_env: ToxEnv) -> bool:
    try:
        return not isinstance(tox_env, Python) or tox_env.base_python is not None
    except (Fail, Skip):
        return False


@atexit.register
def _say() -> None:
    if not _ENDED:
        return
    ran = [end for end in _ENDED.values() if end != _SKIPPED]
    skipped = [name for name, end in _ENDED.items() if end == _SKIPPED]
    lack = f"{', '.join(skipped)} (no such Python found)" if skipped else "none"
    print(f"environments that ran: {', '.join(ran) or 'none'}; skipped: {lack}")
