"""The layout of serialized faiss indexes: is this one that faiss may be given, and of what size?

faiss's reader builds any of its many kinds, some of which open other files by name, and believes the sizes that it is
told: a changed byte makes it ask for all memory there is. Here only these two pass, with every size checked:

    flat       header "IxF2" | count, vectors
    IVF-flat   header "IwFl" | lists, probes | header "IxF2" | count, centroids | direct map | "ilar", lists, code size,
               "full" or "sprs", sizes of the lists | for each list: vectors, ids
"""

import struct

import numpy as np

_FLAT, _IVF = b"IxF2", b"IwFl"  # with squared L2
_HEADER = struct.Struct("<4siqqqBi")  # mark, width, vectors, two unused, is trained, metric
_L2 = 1
_NUMBER, _ID = 4, 8  # bytes


def read_sizes(data: np.ndarray) -> tuple[int, int]:
    """Width and number of vectors of a serialized index, (T,) uint8.

    Raises:
        ValueError: another kind, or sizes that the data do not have.
        struct.error: cut short.
    """
    mark, width, n_vectors, _, _, is_trained, metric = _HEADER.unpack_from(data)
    if mark not in (_FLAT, _IVF) or metric != _L2:
        raise ValueError(f"is neither a flat nor an IVF-flat index with L2 distances (it begins with {mark!r})")
    if width < 1 or n_vectors < 0 or n_vectors * width * _NUMBER > len(data):
        raise ValueError(f"damaged, {len(data)} bytes cannot hold {n_vectors} vectors of {width} numbers")
    if is_trained != 1:
        raise ValueError("damaged, it says that it was never trained")
    position = _HEADER.size
    if mark == _FLAT:
        end = _skip_array(data, position, _NUMBER, n_vectors * width)
    else:
        end = _skip_lists(data, position, width, n_vectors)
    if end != len(data):
        raise ValueError(f"damaged, {len(data)} bytes where {end} are expected")
    return width, n_vectors


def _skip_lists(data: np.ndarray, position: int, width: int, n_vectors: int) -> int:
    """Where an IVF index ends, from behind its header."""
    n_lists, n_probes = struct.unpack_from("<QQ", data, position)
    inner, inner_width, n_centroids, _, _, _, metric = _HEADER.unpack_from(data, position + 16)
    if (inner, inner_width, n_centroids, metric) != (_FLAT, width, n_lists, _L2):
        raise ValueError(f"is an IVF index over {inner!r}, not over flat centroids")
    if not 1 <= n_probes <= max(n_lists, 1) * 1024:
        raise ValueError(f"damaged, it would search {n_probes} lists of {n_lists}")
    position = _skip_array(data, position + 16 + _HEADER.size, _NUMBER, n_lists * width)
    (map_kind,) = struct.unpack_from("<B", data, position)
    if map_kind > 1:
        raise ValueError(f"keeps an unknown map of its vectors ({map_kind})")
    position = _skip_array(data, position + 1, _ID, n_vectors if map_kind else 0)
    lists, n_stored, code_size, form = struct.unpack_from("<4sQQ4s", data, position)
    if lists != b"ilar" or form not in (b"full", b"sprs"):
        raise ValueError(f"keeps its lists in an unknown form ({lists!r} {form!r})")
    if n_stored != n_lists or code_size != width * _NUMBER:
        raise ValueError(f"damaged, {n_stored} lists of {code_size} bytes a vector, expected {n_lists} of {width * 4}")
    (count,) = struct.unpack_from("<Q", data, position + 24)
    end = _skip_array(data, position + 24, 8, count)
    sizes = np.frombuffer(data[end - 8 * count : end].tobytes(), "<u8")
    if form == b"sprs":  # pairs of a list and its size
        if count % 2 or (sizes[::2] >= n_lists).any():
            raise ValueError("damaged, its lists have wrong numbers")
        sizes = sizes[1::2]
    elif count != n_lists:
        raise ValueError(f"damaged, {count} sizes for {n_lists} lists")
    if (sizes > n_vectors).any() or int(sizes.sum()) != n_vectors:
        raise ValueError(f"damaged, its lists do not hold {n_vectors} vectors")
    return end + n_vectors * (code_size + _ID)


def _skip_array(data: np.ndarray, position: int, item_size: int, expected: int) -> int:
    """Where an array ends that begins with its length at `position`."""
    (count,) = struct.unpack_from("<Q", data, position)
    end = position + 8 + count * item_size
    if end > len(data):
        raise struct.error("cut short")
    if count != expected:
        raise ValueError(f"damaged, {count} numbers where {expected} are expected")
    return end
