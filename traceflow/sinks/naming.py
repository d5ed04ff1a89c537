"""Names that must differ within one document or folder: a repeated one gets `-1`, `-2` and so on."""

from __future__ import annotations

__all__ = ["UniqueNames"]


class UniqueNames:
    """Hands out names, each once.

    Args:
        fold: Treat names that differ in case alone as the same, as some file systems do.
    """

    __slots__ = ("_fold", "_next", "_taken")

    def __init__(self, *, fold: bool = False) -> None:
        self._fold = fold
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}

    def unique(self, name: str) -> str:
        """Take `name`, or the first free name made from it.

        Args:
            name: The wanted name.

        Returns:
            A name that was not given before.
        """
        given = name
        while self._key(given) in self._taken:
            count = self._next.get(self._key(name), 1)
            self._next[self._key(name)] = count + 1
            given = f"{name}-{count}"
        self._taken.add(self._key(given))
        return given

    def _key(self, name: str) -> str:
        return name.casefold() if self._fold else name
