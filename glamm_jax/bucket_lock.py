"""An exclusive lock in a bucket, which has no locks of the operating system: a lease.

The lock is an object that names host, process and time. It is created only if it does not exist,
and its holder writes it again every `RENEW_SECONDS`; each write expects the generation of the one
before. If its generation stays the same for `LEASE_SECONDS`, the holder has ended or has lost its
connection: another process may take it over. No clocks of two machines are compared.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress

from etils import epath

from glamm_jax.errors import FolderError
from glamm_jax.lock_holder import LockHolder
from glamm_jax.storage import ConditionError, StorageError, delete, object_info, put

LEASE_SECONDS, RENEW_SECONDS = 60.0, 10.0
POLL_SECONDS = 1.0


class BucketLock:
    """A lock on something in a bucket that one process may write at a time.

    Attributes:
        path: of the lock; it is removed when the lock is released.
    """

    def __init__(self, path: epath.Path, subject: str, wait: bool = False):
        """Take the lock. That of a process that has ended is waited for, up to a minute.

        Args:
            path: of the lock.
            subject: what is locked, for the error message.
            wait: until a holder releases it, instead of an error.

        Raises:
            FolderError: another process holds it.
            StorageError: the bucket cannot be written.
        """
        self.path, self._subject = path, subject
        self._released = threading.Event()
        self._is_lost = False
        generation = self._take()
        while generation is None:
            generation = self._wait_for_lease(wait)
        self._generation = generation
        self._thread = threading.Thread(target=self._renew, daemon=True, name="bucket lock")
        self._thread.start()

    def check(self) -> None:
        """Check that this process still holds the lock.

        Raises:
            FolderError: it was suspended or disconnected for too long, and another one took it.
        """
        if self._is_lost:
            raise FolderError(
                f"{self._subject}: another process has taken over, since this one did not reach "
                f"the bucket for {LEASE_SECONDS:.0f} s; it must not write any more"
            )

    def close(self) -> None:
        """Release the lock."""
        if not self._released.is_set():
            self._released.set()
            self._thread.join()
            if not self._is_lost:
                with suppress(StorageError):  # then the lease ends by itself
                    delete(self.path, self._generation)

    def __enter__(self) -> BucketLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, generation: int = 0) -> int | None:
        """Try to write the lock in place of one of this generation; returns the new generation."""
        try:
            return put(self.path, LockHolder.this_process().to_bytes(), generation)
        except ConditionError:
            return None

    def _wait_for_lease(self, wait: bool) -> int | None:
        """Wait until the holder's lease ends, then try to take the lock.

        Raises:
            FolderError: the holder renews it, and `wait` is not set.
        """
        first = object_info(self.path)
        if first is None:
            return self._take()
        holder = self._holder()
        if holder.has_ended:
            return self._take(first.generation)
        if not wait:
            print(
                f"{self._subject}: waiting for up to {LEASE_SECONDS:.0f} s whether {holder} still "
                "writes it",
                file=sys.stderr,
                flush=True,
            )
        end = time.monotonic() + LEASE_SECONDS
        while time.monotonic() < end:
            time.sleep(POLL_SECONDS)
            info = object_info(self.path)
            if info is None:
                return self._take()
            if info.generation != first.generation:
                if wait:
                    return None
                raise FolderError(
                    f"{self._subject}: is being written by {holder}; wait until that has ended, or "
                    f"choose another folder (lock {self.path})"
                )
        return self._take(first.generation)

    def _holder(self) -> LockHolder:
        try:
            return LockHolder.from_bytes(self.path.read_bytes())
        except FileNotFoundError:
            return LockHolder()

    def _renew(self) -> None:
        """Write the lock again and again; called in a thread."""
        renewed = time.monotonic()
        while not self._released.wait(RENEW_SECONDS):
            try:
                generation = self._take(self._generation)
            except StorageError:  # no connection
                self._is_lost |= time.monotonic() - renewed > LEASE_SECONDS
                continue
            if generation is None:
                self._is_lost = True
                return
            self._generation, renewed = generation, time.monotonic()
