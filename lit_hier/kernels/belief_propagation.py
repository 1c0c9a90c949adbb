"""The passes of belief propagation on a GPU, in one kernel: see `lit_hier.inference.gpu`.

A program answers a few samples from their leaf messages to their marginals. A lane holds a node's
message in registers, an entry in each, and the rules are part of the code: a term of a sum of
products is a multiplication and an addition of registers, and nothing is looked up. What memory
carries is little else than the answers. A step passes `height` levels within a lane; between
steps messages go through scratch memory of the program's own, which stays in the cache.

The arithmetic is that of `passes` and `semirings`, operation for operation, without fused
multiply-adds: the bits are those of the other two implementations, and of any batch.

The kernel is written in Gluon, Triton's language with explicit layouts. Without a GPU, with
TRITON_INTERPRET=1, the same functions run in Triton's interpreter, for which layouts mean nothing.
"""

import triton
from triton import knobs

__all__ = ["answer_queries", "gl"]

if knobs.runtime.interpret:
    import triton.language as gl

    kernel = triton.jit

    def jit(function):
        """Leave what a kernel calls as it is: Python runs it."""
        return function

    def _arange(COUNT, layout):
        return gl.arange(0, COUNT)

    def _convert(x, layout):
        return x

    def _barrier():
        gl.debug_barrier()

else:
    from triton.experimental import gluon
    from triton.experimental.gluon import language as gl

    kernel = jit = gluon.jit

    @jit
    def _arange(COUNT: gl.constexpr, layout: gl.constexpr):
        return gl.arange(0, COUNT, layout=layout)

    @jit
    def _convert(x, layout: gl.constexpr):
        return gl.convert_layout(x, layout)

    _barrier = gl.barrier if hasattr(gl, "barrier") else gl.thread_barrier


@kernel(do_not_specialize=("batch", "samples", "prior_stride"))
def answer_queries(tables, batch, samples, prior_stride, plan: gl.constexpr):
    """Answer queries about a batch; program p takes every `num_programs`-th tile, from p on.

    Args:
        tables: `gpu.Tables`.
        batch: B.
        samples: Samples of a tile.
        prior_stride: Numbers from a sample's prior to the next one's.
        plan: `gpu.Plan`.
    """
    for number in range(gl.program_id(0), (batch + samples - 1) // samples, gl.num_programs(0)):
        first = number * samples
        used = gl.minimum(batch - first, samples)
        for step in gl.static_range(len(plan.steps)):
            nodes = used * plan.width[plan.steps[step][1]]
            for node in range(0, nodes, plan.lanes):
                tile = (tables, batch, samples, first, node, nodes, prior_stride)
                _step_up(tile, plan.steps[step][0], plan.steps[step][1], plan)
            _barrier()
        if plan.descends:
            for back in gl.static_range(1, len(plan.steps) + 1):
                nodes = used * plan.width[plan.steps[-back][1]]
                for node in range(0, nodes, plan.lanes):
                    tile = (tables, batch, samples, first, node, nodes, prior_stride)
                    _step_down(tile, plan.steps[-back][0], plan.steps[-back][1], plan)
                _barrier()


# A `tile` is what functions share: 0 the tables, 1 the batch, 2 the samples of a tile, 3 its first
# sample, 4 and 5 the lanes' first node and the number of nodes, of the step's highest level, 6 the
# stride of priors. Lane k has node `tile[4] + k`; below it, SPREAD nodes of a level belong to a
# lane, and a function is about the OFFSET-th of them.


@jit
def _step_up(tile, LOW: gl.constexpr, HIGH: gl.constexpr, plan: gl.constexpr):
    """Pass from a step's lowest level to its highest."""
    x, loss, smallest, exponent, flags = _up(tile, HIGH, LOW, 1, 0, True, plan)
    if HIGH == plan.top:
        flags |= _answer_root(tile, x, loss, smallest, exponent, plan)
    else:
        _keep(tile, x, loss, smallest, HIGH, 1, 0, plan)
        if plan.log_evidence:
            address = _scratch(tile, plan.exponents_at[HIGH], plan)
            address += _lane_index(tile, 1, 0, plan)
            gl.store(address, exponent.to(plan.real.float, bitcast=True), _lane_mask(tile, plan))
    _record(tile, flags, HIGH, plan)


@jit
def _step_down(tile, LOW: gl.constexpr, HIGH: gl.constexpr, plan: gl.constexpr):
    """Pass from a step's highest level to its lowest."""
    x, loss, smallest = _kept(tile, HIGH, 1, 0, plan)
    symbol = _lane_index(tile, 1, 0, plan)
    if plan.trees:
        address = _nodes(tile[0].trees[HIGH], tile, HIGH, plan) + symbol
        symbol = gl.load(address, _lane_mask(tile, plan), 0).to(gl.int32)
    flags = _down(tile, x, loss, smallest, symbol, HIGH, LOW, 1, 0, plan)
    _record(tile, flags, HIGH, plan)


@jit
def _up(
    tile, LEVEL: gl.constexpr, LOW: gl.constexpr, SPREAD: gl.constexpr, OFFSET: gl.constexpr,
    FINAL: gl.constexpr, plan: gl.constexpr,
):  # fmt: skip
    """Upward messages (Eq. 13): entries, loss, smallest entry, exponent, flags.

    In the upward pass, which is the first to compute them, they are `FINAL`: answers are written.
    """
    tables = tile[0]
    real: gl.constexpr = plan.real
    COUNT: gl.constexpr = plan.symbols[LEVEL]
    none = _lane_index(tile, 1, 0, plan) * 0
    if LEVEL == LOW and LOW > 0:
        x, loss, smallest = _kept(tile, LEVEL, SPREAD, OFFSET, plan)
        exponent = none.to(real.bits)
        if FINAL and plan.log_evidence:
            address = _scratch(tile, plan.exponents_at[LEVEL], plan)
            address += _lane_index(tile, SPREAD, OFFSET, plan)
            exponent = gl.load(address, _lane_mask(tile, plan), 0).to(real.bits, bitcast=True)
        return x, loss, smallest, exponent, none
    else:
        if LEVEL == 0:
            leaves = _rows(tables.leaves, tile, 0, plan)
            raw = _read_rows(leaves, COUNT, tile, COUNT, SPREAD, OFFSET, plan)
            largest = _largest(raw, COUNT)
            valid = largest < float("inf")
            for i in gl.static_range(COUNT):
                valid = valid & (raw[i] >= 0)
            # Maxima that a power of two may not scale exactly need a larger range.
            exact = (largest >= real.tiny) & (largest < 0.25 / real.tiny)
            flags = gl.where(valid, 0, plan.INVALID) | gl.where(exact, 0, plan.UPWARD)
            zero = none.to(real.float)
            x, loss, smallest, exponent = _scale(raw, zero, zero + 1, COUNT, plan)
        else:
            children, losses, minima, exponent, flags = _children(
                tile, LEVEL, LOW, SPREAD, OFFSET, FINAL, plan
            )
            sums = _sum_products(children, children, LEVEL, 0, plan)
            loss = plan.num_synonyms * _sum(losses, plan.s)
            x, loss, smallest, added = _scale(sums, loss, _product(minima, plan.s), COUNT, plan)
            exponent += added
        if FINAL and plan.upward:
            _write(tables.upward[LEVEL], tile, x, LEVEL, SPREAD, OFFSET, plan)
        return x, loss, smallest, exponent, flags | _flag(loss, plan.UPWARD, plan)


@jit
def _children(
    tile, LEVEL: gl.constexpr, LOW: gl.constexpr, SPREAD: gl.constexpr, OFFSET: gl.constexpr,
    FINAL: gl.constexpr, plan: gl.constexpr,
):  # fmt: skip
    """Children's upward messages: entries, losses and minima by child, exponent, flags."""
    S: gl.constexpr = plan.s
    x, loss, smallest, exponent, flags = _up(
        tile, LEVEL - 1, LOW, SPREAD * S, OFFSET * S, FINAL, plan
    )
    losses = (loss,)
    minima = (smallest,)
    for j in gl.static_range(1, S):
        other = _up(tile, LEVEL - 1, LOW, SPREAD * S, OFFSET * S + j, FINAL, plan)
        x = x + other[0]
        losses = losses + (other[1],)
        minima = minima + (other[2],)
        exponent += other[3]
        flags |= other[4]
    return x, losses, minima, exponent, flags


@jit
def _answer_root(tile, x, loss, smallest, exponent, plan: gl.constexpr):
    """Answer the queries about the root; keep the prior as the downward message to it."""
    tables = tile[0]
    mask = _lane_mask(tile, plan)
    TOP: gl.constexpr = plan.top
    COUNT: gl.constexpr = plan.symbols[TOP]
    priors = tables.prior + gl.to_tensor(tile[3]).to(gl.int64) * tile[6]
    given = _read_rows(priors, tile[6], tile, COUNT, 1, 0, plan)
    prior = ()
    product = ()
    for y in gl.static_range(COUNT):
        prior = prior + (given[y].to(plan.real.float),)
        product = product + (x[y] * prior[y],)
    prior_smallest = _smallest(prior, COUNT)
    lost = _add_underflow(smallest * prior_smallest, loss, plan)
    lost = _divide(lost, _largest(product, COUNT))
    sample = _lane_index(tile, 1, 0, plan)
    if plan.log_evidence:
        _write_rows(x, _rows(tables.root, tile, TOP, plan), tile, COUNT, 1, 0, plan)
        address = tables.exponents + tile[3] + sample
        gl.store(address, exponent.to(gl.int64), mask)
    if plan.trees:
        u = _uniform(tile, 0, TOP, 1, 0, plan)
        address = tables.trees[TOP] + tile[3] + sample
        gl.store(address, _draw(product, u, COUNT).to(gl.int64), mask)
    if plan.downward:
        _write(tables.downward[TOP], tile, prior, TOP, 1, 0, plan)
    if plan.marginals:
        _write(tables.marginals[TOP], tile, product, TOP, 1, 0, plan)
    if plan.descends:
        _keep(tile, prior, loss * 0, prior_smallest, TOP, 1, 0, plan)
    return _flag(lost, plan.UPWARD, plan)


@jit
def _down(
    tile, x, loss, smallest, symbol, LEVEL: gl.constexpr, LOW: gl.constexpr,
    SPREAD: gl.constexpr, OFFSET: gl.constexpr, plan: gl.constexpr,
):  # fmt: skip
    """Answer the queries about the nodes below, given their downward messages and symbols."""
    S: gl.constexpr = plan.s
    children, losses, minima, _, flags = _children(tile, LEVEL, LOW, SPREAD, OFFSET, False, plan)
    below = (symbol,) * S
    if plan.trees:
        below, lost = _draw_children(
            tile, children, losses, minima, symbol, LEVEL, SPREAD, OFFSET, plan
        )
        flags |= lost
    for j in gl.static_range(S):
        message = (x, loss, smallest)
        if plan.passes_down:
            message, lost = _answer_child(
                tile, message, children, losses, minima, LEVEL, j, SPREAD * S, OFFSET * S + j, plan
            )
            flags |= lost
        if LEVEL - 1 > LOW:
            flags |= _down(
                tile, message[0], message[1], message[2], below[j], LEVEL - 1, LOW, SPREAD * S,
                OFFSET * S + j, plan,
            )  # fmt: skip
        elif LOW > 0 and plan.passes_down:
            _keep(tile, message[0], message[1], message[2], LOW, SPREAD * S, OFFSET * S + j, plan)
    return flags


@jit
def _answer_child(
    tile, parent, children, losses, minima, LEVEL: gl.constexpr, CHILD: gl.constexpr,
    SPREAD: gl.constexpr, OFFSET: gl.constexpr, plan: gl.constexpr,
):  # fmt: skip
    """The downward message to the child at a position (Eq. 15), and its flags."""
    tables = tile[0]
    S: gl.constexpr = plan.s
    COUNT: gl.constexpr = plan.symbols[0]
    x, loss, smallest = parent
    sums = _sum_products(x, children, LEVEL, CHILD + 1, plan)
    bound = plan.most_rules[LEVEL] * (_sum(losses, S) - losses[CHILD] + loss)
    for i in gl.static_range(S):
        if i != CHILD:
            smallest *= minima[i]
    down, down_loss, down_smallest, _ = _scale(sums, bound, smallest, COUNT, plan)
    flags = _flag(down_loss, plan.DOWNWARD, plan)
    if plan.downward:
        _write(tables.downward[LEVEL - 1], tile, down, LEVEL - 1, SPREAD, OFFSET, plan)
    if plan.marginals:
        product = ()
        for z in gl.static_range(COUNT):
            product = product + (children[CHILD * COUNT + z] * down[z],)
        lost = _add_underflow(minima[CHILD] * down_smallest, losses[CHILD] + down_loss, plan)
        flags |= _flag(_divide(lost, _largest(product, COUNT)), plan.PRODUCTS, plan)
        _write(tables.marginals[LEVEL - 1], tile, product, LEVEL - 1, SPREAD, OFFSET, plan)
    return (down, down_loss, down_smallest), flags


@jit
def _draw_children(
    tile, children, losses, minima, symbol, LEVEL: gl.constexpr, SPREAD: gl.constexpr,
    OFFSET: gl.constexpr, plan: gl.constexpr,
):  # fmt: skip
    """Draw a rule for each node, given its symbol; return its children's symbols, and flags."""
    tables = tile[0]
    mask = _lane_mask(tile, plan)
    S: gl.constexpr = plan.s
    RULES: gl.constexpr = plan.num_synonyms
    COUNT: gl.constexpr = plan.symbols[LEVEL]
    weights = ()
    for k in gl.static_range(RULES):
        weight = losses[0] * 0
        for y in gl.static_range(COUNT):
            product = children[plan.sums[LEVEL][0][y][k][0]]
            for i in gl.static_range(1, S):
                product *= children[plan.sums[LEVEL][0][y][k][i]]
            weight = gl.where(symbol == y, product, weight)
        weights = weights + (weight,)
    lost = _add_underflow(_product(minima, S), _sum(losses, S), plan)
    lost = _divide(lost, _largest(weights, RULES))
    u = _uniform(tile, plan.above[LEVEL], LEVEL, SPREAD, OFFSET, plan)
    rule = symbol * RULES + _draw(weights, u, RULES)
    below = ()
    for j in gl.static_range(S):
        drawn = gl.load(tables.rules + plan.first_rule[LEVEL] + (rule * S + j), mask, 0)
        below = below + (drawn,)
        tree = _nodes(tables.trees[LEVEL - 1], tile, LEVEL - 1, plan)
        child = _lane_index(tile, SPREAD * S, OFFSET * S + j, plan)
        gl.store(tree + child, drawn.to(gl.int64), mask)
    return below, _flag(lost, plan.DRAWN, plan)


@jit
def _uniform(
    tile, ABOVE: gl.constexpr, LEVEL: gl.constexpr, SPREAD: gl.constexpr, OFFSET: gl.constexpr,
    plan: gl.constexpr,
):  # fmt: skip
    """The uniform numbers that decide at nodes, rounded down so that they stay below 1."""
    index = _lane_index(tile, SPREAD, OFFSET, plan)
    sample = (tile[3] + index // plan.width[LEVEL]).to(gl.int64)
    position = sample * plan.num_draws + index % plan.width[LEVEL] + ABOVE
    u = gl.load(tile[0].draws + position, _lane_mask(tile, plan), 0)
    if plan.real.mantissa == 23:
        u = gl.floor(u * 16777216.0) * 5.9604644775390625e-08
    return u.to(plan.real.float)


@jit
def _draw(weights, u, COUNT: gl.constexpr):
    """Draw an index with probability proportional to its weight."""
    cumulative = (weights[0],)
    for k in gl.static_range(1, COUNT):
        cumulative = cumulative + (cumulative[k - 1] + weights[k],)
    drawn = (u * 0).to(gl.int32)
    for k in gl.static_range(COUNT - 1):
        drawn += (cumulative[k] <= cumulative[COUNT - 1] * u).to(gl.int32)
    return drawn


@jit
def _sum_products(first, others, LEVEL: gl.constexpr, KIND: gl.constexpr, plan: gl.constexpr):
    """Sums of products of entries, in order: a term names one of `first`, then some of `others`.

    Of KIND 0 are the upward messages, of 1 + j the downward messages to the j-th child.
    """
    S: gl.constexpr = plan.s
    x = ()
    for z in gl.static_range(len(plan.sums[LEVEL][KIND])):
        total = first[0] * 0
        for k in gl.static_range(len(plan.sums[LEVEL][KIND][z])):
            product = first[plan.sums[LEVEL][KIND][z][k][0]]
            for i in gl.static_range(1, S):
                product *= others[plan.sums[LEVEL][KIND][z][k][i]]
            if k == 0:
                total = product
            else:
                total += product
        x = x + (total,)
    return x


@jit
def _scale(x, loss, smallest, COUNT: gl.constexpr, plan: gl.constexpr):
    """Divide by the power of two that brings the largest entry into [1/2, 1).

    Takes the bound on the error that `x` inherits and the product of the factors' smallest
    entries; returns the entries, the bound, the smallest positive entry and the exponent.
    """
    real: gl.constexpr = plan.real
    largest = _largest(x, COUNT)
    loss = _divide(_add_underflow(smallest, loss, plan), largest)
    exponent = (largest.to(real.bits, bitcast=True) >> real.mantissa) - real.bias
    unit = ((real.bias + 1 - exponent) << real.mantissa).to(real.float, bitcast=True)
    scaled = ()
    for i in gl.static_range(COUNT):
        scaled = scaled + (x[i] * unit,)
    smallest = _smallest(x, COUNT) * unit
    return scaled, _add_underflow(smallest, loss, plan), smallest, exponent


@jit
def _add_underflow(smallest, loss, plan: gl.constexpr):
    """Add the underflow error of numbers below the smallest normal one."""
    return gl.where(smallest < plan.real.tiny, loss + plan.real.tiny, loss)


@jit
def _flag(loss, KIND: gl.constexpr, plan: gl.constexpr):
    """The flag, where the error due to underflow may exceed rounding."""
    return gl.where(loss <= plan.real.rounding, 0, KIND)


@jit
def _record(tile, flags, LEVEL: gl.constexpr, plan: gl.constexpr):
    """Add flags to those of the nodes' samples, and to those of the batch."""
    tables, first = tile[0], tile[3]
    affected = _lane_mask(tile, plan) & (flags != 0)
    sample = first + _lane_index(tile, 1, 0, plan) // plan.width[LEVEL]
    gl.atomic_or(tables.flags + sample, flags, affected)
    gl.atomic_or(tables.flags + (sample * 0 + tile[1]), flags, affected)


@jit
def _divide(x, y):
    if x.dtype == gl.float32:
        return gl.div_rn(x, y)
    else:
        return x / y


@jit
def _sum(x, COUNT: gl.constexpr):
    total = x[0]
    for i in gl.static_range(1, COUNT):
        total += x[i]
    return total


@jit
def _product(x, COUNT: gl.constexpr):
    product = x[0]
    for i in gl.static_range(1, COUNT):
        product *= x[i]
    return product


@jit
def _pairwise_sum(x, COUNT: gl.constexpr):
    """`semirings.pairwise_sum`."""
    if COUNT == 1:
        return x[0]
    else:
        HALF: gl.constexpr = COUNT // 2
        sums = ()
        for i in gl.static_range(HALF):
            sums = sums + (x[i] + x[HALF + i],)
        return _pairwise_sum(sums + x[2 * HALF :], COUNT - HALF)


@jit
def _largest(x, COUNT: gl.constexpr):
    largest = x[0]
    for i in gl.static_range(1, COUNT):
        largest = gl.maximum(largest, x[i])
    return largest


@jit
def _smallest(x, COUNT: gl.constexpr):
    """The smallest positive entry; infinity if there is none."""
    smallest = gl.where(x[0] > 0, x[0], float("inf"))
    for i in gl.static_range(1, COUNT):
        smallest = gl.minimum(smallest, gl.where(x[i] > 0, x[i], float("inf")))
    return smallest


@jit
def _lane_index(tile, SPREAD: gl.constexpr, OFFSET: gl.constexpr, plan: gl.constexpr):
    layout: gl.constexpr = plan.lane_layout
    return (tile[4] + _arange(plan.lanes, layout)) * SPREAD + OFFSET


@jit
def _lane_mask(tile, plan: gl.constexpr):
    return _lane_index(tile, 1, 0, plan) < tile[5]


@jit
def _nodes(table, tile, LEVEL: gl.constexpr, plan: gl.constexpr):
    """Where the tile's nodes begin in a table with a number per sample and node."""
    return table + gl.to_tensor(tile[3]).to(gl.int64) * plan.width[LEVEL]


@jit
def _rows(table, tile, LEVEL: gl.constexpr, plan: gl.constexpr):
    """Where the tile's nodes begin in a table with a row per sample and node."""
    return table + gl.to_tensor(tile[3]).to(gl.int64) * (plan.width[LEVEL] * plan.symbols[LEVEL])


@jit
def _scratch(tile, POSITION: gl.constexpr, plan: gl.constexpr):
    """An array in the program's scratch memory."""
    own = gl.program_id(0).to(gl.int64) * plan.scratch_size + POSITION
    return tile[0].scratch + own * tile[2]


@jit
def _keep(
    tile, x, loss, smallest, LEVEL: gl.constexpr, SPREAD: gl.constexpr, OFFSET: gl.constexpr,
    plan: gl.constexpr,
):  # fmt: skip
    """Keep messages between two steps."""
    rows = _scratch(tile, plan.rows_at[LEVEL], plan)
    _write_rows(x, rows, tile, plan.symbols[LEVEL], SPREAD, OFFSET, plan)
    bounds = _scratch(tile, plan.bounds_at[LEVEL], plan)
    bounds += _lane_index(tile, SPREAD, OFFSET, plan) * 2
    gl.store(bounds, loss, _lane_mask(tile, plan))
    gl.store(bounds + 1, smallest, _lane_mask(tile, plan))


@jit
def _kept(
    tile, LEVEL: gl.constexpr, SPREAD: gl.constexpr, OFFSET: gl.constexpr, plan: gl.constexpr
):
    COUNT: gl.constexpr = plan.symbols[LEVEL]
    rows = _scratch(tile, plan.rows_at[LEVEL], plan)
    x = _read_rows(rows, COUNT, tile, COUNT, SPREAD, OFFSET, plan)
    bounds = _scratch(tile, plan.bounds_at[LEVEL], plan)
    bounds += _lane_index(tile, SPREAD, OFFSET, plan) * 2
    mask = _lane_mask(tile, plan)
    return x, gl.load(bounds, mask, 0), gl.load(bounds + 1, mask, 1)


@jit
def _write(
    table, tile, x, LEVEL: gl.constexpr, SPREAD: gl.constexpr, OFFSET: gl.constexpr,
    plan: gl.constexpr,
):  # fmt: skip
    """Normalize messages and write them to an answer."""
    COUNT: gl.constexpr = plan.symbols[LEVEL]
    total = _pairwise_sum(x, COUNT)
    reciprocal = _divide(total * 0 + 1, total)
    shares = ()
    for i in gl.static_range(COUNT):
        shares = shares + (gl.where(x[i] == total, 1, x[i] * reciprocal),)
    _write_rows(shares, _rows(table, tile, LEVEL, plan), tile, COUNT, SPREAD, OFFSET, plan)


@jit
def _row_cells(
    table, stride, tile, COUNT: gl.constexpr, SPREAD: gl.constexpr, OFFSET: gl.constexpr,
    plan: gl.constexpr,
):  # fmt: skip
    """Addresses of the lanes' rows of COUNT numbers, and which of them exist."""
    lanes: gl.constexpr = plan.row_layout[COUNT].lanes
    entries: gl.constexpr = plan.row_layout[COUNT].entries
    node = (tile[4] + _arange(plan.lanes, lanes))[:, None]
    entry = _arange(len(plan.order[COUNT]), entries)[None, :]
    inside = (node < tile[5]) & (entry < COUNT)
    return table + ((node * SPREAD + OFFSET) * stride + entry), inside


@jit
def _read_rows(
    table, stride, tile, COUNT: gl.constexpr, SPREAD: gl.constexpr, OFFSET: gl.constexpr,
    plan: gl.constexpr,
):  # fmt: skip
    """Read a row of COUNT numbers into each lane: a vector per position in the rows."""
    order: gl.constexpr = plan.order[COUNT]
    WIDTH: gl.constexpr = len(order)
    address, inside = _row_cells(table, stride, tile, COUNT, SPREAD, OFFSET, plan)
    block = gl.load(address, inside, 1)
    registers: gl.constexpr = plan.row_layout[COUNT].registers
    lane: gl.constexpr = plan.lane_layout
    vectors = _split(_convert(block, registers), plan.lanes, WIDTH, lane)
    x = ()
    for i in gl.static_range(COUNT):
        x = x + (vectors[order[i]],)
    return x


@jit
def _write_rows(
    x, table, tile, COUNT: gl.constexpr, SPREAD: gl.constexpr, OFFSET: gl.constexpr,
    plan: gl.constexpr,
):  # fmt: skip
    """Write a row of COUNT numbers from each lane."""
    order: gl.constexpr = plan.order[COUNT]
    WIDTH: gl.constexpr = len(order)
    vectors = ()
    for i in gl.static_range(WIDTH):
        vectors = vectors + (x[order[i] if order[i] < COUNT else 0],)
    address, inside = _row_cells(table, COUNT, tile, COUNT, SPREAD, OFFSET, plan)
    memory: gl.constexpr = plan.row_layout[COUNT].memory
    gl.store(address, _convert(_join(vectors, plan.lanes, WIDTH), memory), inside)


@jit
def _split(block, LANES: gl.constexpr, WIDTH: gl.constexpr, layout: gl.constexpr):
    """Split (LANES, WIDTH) into WIDTH vectors, in the order of their reversed bits."""
    if WIDTH == 1:
        return (_convert(block.reshape([LANES]), layout),)
    else:
        HALF: gl.constexpr = WIDTH // 2
        even, odd = gl.split(block.reshape([LANES, HALF, 2]))
        return _split(even, LANES, HALF, layout) + _split(odd, LANES, HALF, layout)


@jit
def _join(vectors, LANES: gl.constexpr, WIDTH: gl.constexpr):
    """The inverse of `_split`."""
    if WIDTH == 1:
        return vectors[0].reshape([LANES, 1])
    else:
        HALF: gl.constexpr = WIDTH // 2
        even = _join(vectors[:HALF], LANES, HALF)
        return gl.join(even, _join(vectors[HALF:], LANES, HALF)).reshape([LANES, WIDTH])
