"""Flags for other Cython modules: `value` may be read without the GIL."""

cdef extern from *:
    """
    typedef volatile int dec_flag;  /* read again at every step */
    """
    ctypedef int dec_flag


cdef class Flag:
    cdef dec_flag value
