"""The images of a run, ready to be shown."""

from __future__ import annotations

import io
from threading import Lock

from ...pairs import Shard, UserError
from ...run import Run
from ...run.source import embedded_source
from ...sources import Source


class Pictures:
    """The images of a run's source, as JPEG whose longer side has at most `side` pixels.  Thread-safe."""

    def __init__(self, run: Run, side: int) -> None:
        self._run, self._side, self._lock = run, side, Lock()
        self._opened: tuple[Source, dict[str, Shard]] | None = None

    def jpeg(self, shard: str, row: int) -> bytes:
        """Raises UserError with the reason where the image cannot be shown."""
        from ...embed.decode import Unreadable, decode

        with self._lock:
            if self._opened is None:
                source = embedded_source(self._run)
                self._opened = source, {one.name: one for one in source.shards}
            source, shards = self._opened
            data = source.image(shards[shard], row)
        try:
            image = decode(data, self._side)
        except Unreadable as reason:
            raise UserError(f"it cannot be decoded ({reason})") from None
        image.thumbnail((self._side, self._side))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=88)
        return buffer.getvalue()
