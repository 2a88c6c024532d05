"""CRC-32 as zip and PNG have it, for readers of frames."""

cdef uint32_t SUMS[8][256]  # SUMS[n][byte]: what a byte does to the sum with n zero bytes behind it


cdef void _make_sums() noexcept:
    cdef uint32_t value
    cdef int byte, bit, behind
    for byte in range(256):
        value = byte
        for bit in range(8):
            value = (value >> 1) ^ (<uint32_t>0xEDB88320 * (value & 1))
        SUMS[0][byte] = value
    for behind in range(1, 8):
        for byte in range(256):
            SUMS[behind][byte] = (SUMS[behind - 1][byte] >> 8) ^ SUMS[0][SUMS[behind - 1][byte] & 0xFF]


_make_sums()


cdef uint32_t crc32_of(const uint8_t* at, Py_ssize_t size) noexcept nogil:
    """Eight bytes at a time."""
    cdef uint32_t value = ~(<uint32_t>0)
    while size >= 8:
        value ^= at[0] | (<uint32_t>at[1] << 8) | (<uint32_t>at[2] << 16) | (<uint32_t>at[3] << 24)
        value = (
            SUMS[7][value & 0xFF]
            ^ SUMS[6][(value >> 8) & 0xFF]
            ^ SUMS[5][(value >> 16) & 0xFF]
            ^ SUMS[4][value >> 24]
            ^ SUMS[3][at[4]]
            ^ SUMS[2][at[5]]
            ^ SUMS[1][at[6]]
            ^ SUMS[0][at[7]]
        )
        at += 8
        size -= 8
    while size > 0:
        value = (value >> 8) ^ SUMS[0][(value ^ at[0]) & 0xFF]
        at += 1
        size -= 1
    return ~value
