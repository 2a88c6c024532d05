"""The verifier's walk over frames in which all is right, natively; `verify_frames` is the specification."""

def pass_over(
    buffer: bytes,
    at: int,
    seq: int,
    root: bytes,
    limit: int,
    leaves: list[bytes],
    actions: tuple[bytes, ...],
    marked: list[int],
) -> tuple[int, int, bytes]: ...
def crc32(data: bytes) -> int:
    """The sum by which it knows damaged frames."""
