"""Flags that one thread sets and others look at, also without the GIL."""


cdef class Flag:
    """Is set or not. Setting it takes no lock.

    `threading.Event` has a lock in Python code: Ctrl-C between its acquire and release leaves it locked for good (issue 13).
    """

    def set(self):
        """Set the flag."""
        self.value = 1

    def clear(self):
        """Clear the flag."""
        self.value = 0

    def is_set(self):
        """Return whether the flag is set."""
        return self.value != 0
