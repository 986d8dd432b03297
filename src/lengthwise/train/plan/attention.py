"""What one call of attention allocates, by the kernel that a layer gets.

Queries, keys and values are `[rows, heads * head_dim]`.
"""

from typing import TYPE_CHECKING

from lengthwise.train.plan.ledger import FLOAT, Array
from lengthwise.train.plan.model import LayerShape

if TYPE_CHECKING:
    from lengthwise.train.plan.layers import Forward


def workspace(forward: "Forward", queries: int) -> int:
    """Bytes of one tile of scores of torch's CPU kernel: 32 to 256 queries times 512 keys."""
    tile = 256 if queries >= 768 else 64 if queries >= 192 else 32
    return 0 if forward.training.gpu else forward.training.threads * tile * 512 * FLOAT


def fused(
    forward: "Forward", q: Array, k: Array, v: Array, layer: LayerShape, *more: Array
) -> Array:
    """torch's fused kernel without a mask: nothing quadratic is kept.

    It keeps queries, keys, values, its output and a log-sum-exp in float32. The CUDA backward
    (FlashAttention 2) adds the gradient of the queries up in float32 and makes those of keys
    and values for every query head before it adds up a group.

    Args:
        more: What it keeps beside them.
    """
    rows = q.rows
    lse = forward.tape.new(rows, layer.heads, FLOAT)
    tile = workspace(forward, rows)
    work = 2 * tile
    if forward.training.gpu:
        work = rows * layer.heads * (layer.head_dim + 1) * FLOAT
        if q.width > k.width:
            work += 2 * rows * layer.heads * layer.head_dim * q.item
    return forward.tape.apply(
        "attention",
        [q, k, v],
        (rows, q.width, q.item),
        saves=[q, k, v, lse, *more],
        saves_output=True,
        work_forward=tile,
        work_backward=work,
    )


def masked(forward: "Forward", q: Array, k: Array, v: Array, layer: LayerShape) -> Array:
    """The same under a mask of length times length, kept in the queries' numbers.

    transformers repeats keys and values for every query head where there is a mask.
    """
    mask = forward.tape.new(q.rows, forward.length, q.item)
    k, v = repeated(forward, k, q.width), repeated(forward, v, q.width)
    return fused(forward, q, k, v, layer, mask)


def repeated(forward: "Forward", x: Array, width: int) -> Array:
    """Keys or values once for every query head."""
    if x.width == width:
        return x
    return forward.tape.apply("keys for every head", [x], (x.rows, width, x.item))


def eager(forward: "Forward", q: Array, k: Array, v: Array, layer: LayerShape) -> Array:
    """transformers' own: scores of length times length for every head, in the queries' numbers.

    Capped, biased by a mask, and softened in float32.
    """
    tape, rows, item = forward.tape, q.rows, q.item
    k, v = repeated(forward, k, q.width), repeated(forward, v, q.width)
    scores = (rows, layer.heads * forward.length, item)
    name = "attention"
    x = tape.apply(name, [q, k], scores, saves=[q, k])
    x = tape.apply(name, [x], scores)  # times the scaling
    if layer.softcap:
        x = tape.apply(name, [x], scores)
        x = tape.apply(name, [x], scores, saves_output=True)
        x = tape.apply(name, [x], scores)
    x = tape.apply(name, [x], scores, passes=True)  # plus the mask
    biased = x
    if layer.sinks:
        even = _less_largest(forward, x, layer)
        soft = tape.apply(name, [even], (rows, even.width, item), saves_output=True)
        (x,) = tape.columns(name, soft, scores[1], split=False)  # without the sinks
    else:
        biased = x = forward.cast(x, FLOAT, name)
        x = tape.apply(name, [x], (*scores[:2], FLOAT), saves_output=True)
        x = forward.cast(x, item, name)
    # On a CPU, a product in half precision copies what does not lie row by row.
    copied = x.size if layer.sinks and item < FLOAT and not forward.training.gpu else 0
    x = tape.apply(name, [x, v], (rows, q.width, item), saves=[x, v], work_forward=copied)
    del biased
    return tape.apply(name, [x], (rows, q.width, item), passes=True)  # row by row


def _less_largest(forward: "Forward", x: Array, layer: LayerShape) -> Array:
    """Scores with a column of sinks joined on, less the largest of a row."""
    tape, rows, item = forward.tape, x.rows, x.item
    wide = (rows, layer.heads * (forward.length + 1), item)
    joined = tape.apply("attention", [x], wide, passes=True)
    largest = tape.apply("attention", [joined], (rows, layer.heads, item))
    return tape.apply("attention", [joined, largest], wide, passes=True)


TILE = 256  # queries that lengthwise.train.memory.attention looks at together


def tiled(
    forward: "Forward", q: Array, k: Array, v: Array, layer: LayerShape, past: int = 0
) -> Array:
    """StreamBP's own under a window, a cap or sinks: a tile of queries at a time, and again back.

    Args:
        past: Keys of all sequences before the queries' own.
    """
    tape, rows, item, batch = forward.tape, q.rows, q.item, forward.batch
    out, queries, keys = (rows, q.width, item), rows // batch, (past + rows) // batch
    tile = min(TILE, queries)
    seen = min(keys, layer.window + tile - 1) if layer.window else keys
    mask = batch * tile * seen
    scores = mask * layer.heads * FLOAT
    pieces = 4 * batch * (seen * k.width + tile * q.width) * item
    # Gradients of all keys and values are summed in float32 before they are cast.
    sums = 2 * k.rows * k.width * (FLOAT - item)
    kept = [] if layer.window else [tape.new(queries, keys, 1)]  # a mask, made where none is
    if layer.softcap:
        forth, back = 3 * scores, 4 * scores + pieces
    elif layer.sinks:
        forth, back = 2 * scores + (scores // 2 if item < FLOAT else 0), 3 * scores + pieces
    else:
        forth = mask * (2 + item) + workspace(forward, rows)
        back = mask * (1 + item) + pieces
    x = tape.apply(
        "attention", [q, k, v], out, saves=[q, k, v, *kept],
        work_forward=forth, work_backward=back + sums,
    )  # fmt: skip
    return tape.apply("attention", [x], out, passes=True)  # row by row


def masks(forward: "Forward") -> list[Array]:
    """What is made before the first layer: a mask for every kind of layer that needs one."""
    tape, length = forward.tape, forward.length
    made = {}
    for layer in forward.shape.layers:
        if layer.eager:
            made[layer.window] = forward.training.item
        elif 0 < layer.window <= length:
            made[layer.window] = 1
    return [tape.new(length, length, item) for item in made.values()]
