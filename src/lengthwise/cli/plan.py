"""`lengthwise plan`: what a length costs, before anything is loaded or bought."""

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lengthwise.cli.inputs import DTYPES, MODEL_HELP, MOST

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress

    from lengthwise.measure.cost.calibration import Rates
    from lengthwise.measure.cost.devices import Device
    from lengthwise.measure.cost.plan import Cost
    from lengthwise.measure.cost.serving import MethodCost
    from lengthwise.train.plan import Longest

DEVICE_HELP = "cpu (this machine), h100, h200, a100-80, rtx4090, or bytes of memory such as 48GB."
CPU_NOTE = (
    "\nBytes of tensors. glibc keeps freed memory in pieces on top, unless the training runs with "
    "MALLOC_MMAP_THRESHOLD_=1048576.\nOffload is left out: a CPU's memory is the host's."
)
GPU_NOTE = (
    "\nBytes of tensors, with attention in FlashAttention 2, or written out for scores with a cap "
    "or sinks;\n5% of the memory is left for CUDA's context and fragments."
)
SPARE = 0.05  # of a device's memory is left for CUDA's context and fragments


def plan(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help=f"{MODEL_HELP} A config.json alone will do "
                            "too.", show_default=False)
    ],
    device: Annotated[str, typer.Option(metavar="DEVICE", help=DEVICE_HELP)] = "cpu",
    train: Annotated[
        bool, typer.Option("--train", help="Plan training steps, not serving.")
    ] = False,
    tokens: Annotated[
        int | None,
        typer.Option(metavar="N", max=MOST, help="Length of a sequence [default: the trained "
                     "window]; with --train, a length that must fit."),
    ] = None,
    batch: Annotated[int, typer.Option(metavar="B", max=MOST, help="Sequences at once.")] = 1,
    lora: Annotated[
        int | None,
        typer.Option(metavar="RANK", max=MOST, help="With --train: also plan adapters of this rank "
                     "on every linear layer."),
    ] = None,
    optimizer: Annotated[
        str, typer.Option(metavar="NAME", help="With --train: adamw, sgd or momentum.")
    ] = "adamw",
    dtype: Annotated[
        str, typer.Option(metavar="DTYPE", help=f"{', '.join(DTYPES)} [default: bfloat16, on a "
                          "cpu float32]")
    ] = "",
    memory: Annotated[
        str, typer.Option(metavar="BYTES", help="Of the device, instead of its data sheet's.")
    ] = "",
    flops: Annotated[
        float | None, typer.Option(metavar="F", help="Operations a second, likewise.")
    ] = None,
    bandwidth: Annotated[
        float | None, typer.Option(metavar="B/S", help="Bytes a second of its memory, likewise.")
    ] = None,
    link: Annotated[
        float | None, typer.Option(metavar="B/S", help="Bytes a second to the host, likewise.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", metavar="METHOD", help="Once for each to plan with: plain, "
                     "yarn:factor=8, streamingllm …"),
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="First measure this machine's processor, about four "
                           "minutes; later plans know it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Plan a length: what serving it costs, or how long a sequence can be trained.

    Only the model's configuration is read. Times are lower bounds, from the device's peak figures;
    of this machine, once it is calibrated, they are what a text read in chunks takes.
    """
    from lengthwise.cli.inputs import be_quiet, check_inputs, tell_of_hub
    from lengthwise.hf.files import find_config
    from lengthwise.measure.cost.devices import find_device, override, read_size
    from lengthwise.train.recipe import CHOICES

    if dtype not in ("", *DTYPES):
        raise ValueError(f"--dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    for name, value in (("--tokens", tokens), ("--batch", batch), ("--lora", lora)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    size = read_size(memory) if memory else None
    if memory and size is None:
        raise ValueError(
            f"--memory {memory!r} is no size; write bytes, 48GB or 44GiB, at most 1024TiB"
        )
    where = find_device(device, 0)
    where = override(where, memory=size, flops=flops, bandwidth=bandwidth, link=link)
    check_inputs(methods=method or [], together=False)
    find_config(model)
    if optimizer not in CHOICES["optimizer"]:
        known = ", ".join(CHOICES["optimizer"])
        raise ValueError(f"--optimizer must be one of {known}, got {optimizer!r}")
    if calibrate and (where.gpu or train):
        raise ValueError("--calibrate measures this machine's processor: it goes with --device cpu "
                         "and without --train")  # fmt: skip
    if method and train:
        raise ValueError(f"--method {method[0]} is for serving; leave it out with --train")
    if lora is not None and not train:
        raise ValueError(f"--lora {lora} goes with --train: adapters change no cost of serving")
    tell_of_hub(model)

    be_quiet()
    import torch

    from lengthwise.cli.memory import SPARE as CPU_SPARE
    from lengthwise.cli.memory import free_bytes
    from lengthwise.hf.skeleton import read_config, skeleton

    if not where.memory:
        free = int((1 - CPU_SPARE) * free_bytes(torch.device("cpu")))
        where = override(where, memory=free)
    numbers = getattr(torch, dtype or ("bfloat16" if where.gpu else "float32"))
    given = any(value is not None for value in (flops, bandwidth, link))
    config = read_config(model)
    if train:
        plan_training(config, where, numbers, tokens, batch, lora, optimizer, as_json)
        return
    from lengthwise.cli.inputs import read_methods
    from lengthwise.measure.cost import calibration
    from lengthwise.measure.cost.plan import serving_cost
    from lengthwise.measure.cost.serving import method_cost

    chosen = {
        spec.strip(): None if spec.strip() == "plain" else read_methods([spec])
        for spec in method or []
    }
    whole = skeleton(config)
    length = tokens or config.max_position_embeddings
    cost = serving_cost(whole, where, length, batch, numbers)
    if calibrate:
        calibration.save(_calibrated(numbers), numbers)
    rates = None if where.gpu or given else calibration.load(numbers)
    plain = method_cost(whole, None, where, length, batch, numbers, rates)
    if rates is not None:
        cost = dataclasses.replace(cost, prefill=plain.prefill, decode=plain.decode)
    costs = {
        name: method_cost(whole, methods, where, length, batch, numbers, rates)
        for name, methods in chosen.items()
    }
    if as_json:
        print(json.dumps({"device": dataclasses.asdict(where), "tokens": length, "batch": batch,
                          "calibrated": rates is not None, **dataclasses.asdict(cost),
                          "methods": {name: dataclasses.asdict(one) for name, one in costs.items()},
                          }, indent=1))  # fmt: skip
    else:
        print("\n".join(serving_lines(cost, where, length, batch, numbers, rates, costs)))


def _calibrated(dtype: "torch.dtype") -> "Rates":
    """Measure this machine, with a bar and the time left."""
    from lengthwise.measure.cost.calibration import calibrate

    with _bar("Calibrating") as bar:
        task = bar.add_task("")
        return calibrate(dtype, lambda done, total: bar.update(task, completed=done, total=total))


def _bar(doing: str) -> "Progress":
    """A bar with the time left, on stderr, gone when it is done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(doing), BarColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def serving_lines(
    cost: "Cost",
    device: "Device",
    length: int,
    batch: int,
    dtype: "torch.dtype",
    rates: "Rates | None" = None,
    methods: "dict[str, MethodCost] | None" = None,
) -> list[str]:
    """The costs, each with the formula that it comes from, then those with each method."""
    from lengthwise.measure.report.words import size

    def seconds(value: float | None) -> str:
        if value is None:
            return "not known"
        return f"{value:,.3g} s" if value >= 1 else f"{value * 1e3:,.3g} ms"

    bound = ", at least" if rates is None else ", about"
    fitted = "rates of this machine, fitted to small models that it read"
    rows = [
        ("weights", size(cost.weights), "parameters x bytes of a number"),
        ("a token's keys, values", size(cost.kv_token), "2 x layers x KV heads x head x bytes"),
        ("a user's keys, values", size(cost.kv_user), "that x tokens, in windows at most w - 1"),
        ("  in lengthwise's cache", size(cost.kv_lengthwise), "read in chunks: blocks, positions"),
        ("users that fit", f"{cost.users:,}", "(memory - weights) / a user's, rounded down"),
        (f"prefill{bound}", seconds(cost.prefill), fitted if rates else
         "the larger of operations / flops, bytes read / bandwidth"),
        (f"a token{bound}", seconds(cost.decode), fitted if rates else
         f"(weights + {batch} x a user's) / bandwidth, or operations / flops"),
        ("switch users, at least", seconds(cost.swap), "2 x a user's / link to the host"),
    ]  # fmt: skip
    lines = [
        f"{length:,} tokens, batch {batch}, {str(dtype).removeprefix('torch.')}, on {device.name} "
        f"with {size(device.memory)} ({device.source})",
        f"{cost.flops:.3g} operations to read one sequence",
        "",
        *(f"  {name:<24}{value:>12}   {formula}" for name, value, formula in rows),
    ]
    if cost.users == 0:
        lines.append("\nNot even one sequence of this length fits beside the weights.")
    if methods:
        wide = max(len("with"), *map(len, methods))
        lines += [
            "",
            f"  {'with':<{wide}}{'a user':>12}{'users':>12}{'prefill':>14}{'a token':>14}",
        ]
        lines += [
            f"  {name:<{wide}}{size(one.kv_user):>12}{one.users:>12,}{seconds(one.prefill):>14}"
            f"{seconds(one.decode):>14}"
            for name, one in methods.items()
        ]
    if rates is not None:
        lines.append(f"\nThe rates missed what they were fitted to by up to {rates.worst:.0%}.")
    elif cost.prefill is None and not device.gpu:
        lines.append("\nFor the times, give --calibrate once, or --flops and --bandwidth.")
    elif cost.prefill is None:
        lines.append("\nFor the times, give --flops, --bandwidth and --link of the device.")
    return [*lines, "\nFormulas: Fu 2024, arXiv:2405.08944, section 2."]


def plan_training(
    config: Any,
    device: "Device",
    dtype: "torch.dtype",
    tokens: int | None,
    batch: int,
    lora: int | None,
    optimizer: str,
    as_json: bool,
) -> None:
    """Print the longest sequence of every lever.

    Raises:
        ValueError: For a family that is not supported, or a length that no lever makes fit.
    """
    import torch

    from lengthwise.hf.skeleton import skeleton
    from lengthwise.train.plan import LADDER, OPTIMIZERS, Training, longest, offloads, read_shape

    shape = read_shape(skeleton(config))
    room = int((1 - SPARE) * device.memory) if device.gpu else device.memory
    ranks = [0] if lora is None else [0, lora]
    found: dict[int, list[Longest]] = {rank: [] for rank in ranks}
    names = [name for name in LADDER if device.gpu or not offloads(name)]
    with _bar("Planning") as bar:
        for rank, name in bar.track([(rank, name) for rank in ranks for name in names]):
            training = Training(
                dtype.itemsize, OPTIMIZERS[optimizer], rank, device.gpu, torch.get_num_threads()
            )
            found[rank].append(longest(shape, training, name, room, batch=batch))
    if tokens is not None:
        check_length(tokens, found, device, room)
    if as_json:
        print(json.dumps(training_record(found, device, room, dtype, batch, optimizer), indent=1))
        return
    from lengthwise.measure.report.words import size

    print(
        f"{shape.family}, {shape.parameters / 1e9:.3g} billion parameters, "
        f"{str(dtype).removeprefix('torch.')}, {optimizer}, batch {batch}, on {device.name}: "
        f"tensors may take {size(room)}"
    )
    for rank, rows in found.items():
        print("\n".join(training_lines(trained(rank), rows, tokens)))
    print(CPU_NOTE if not device.gpu else GPU_NOTE)


def trained(rank: int) -> str:
    """What is trained, in words."""
    return f"LoRA of rank {rank}" if rank else "all parameters"


def training_lines(what: str, rows: "list[Longest]", tokens: int | None) -> list[str]:
    """The table of one kind of training."""
    from lengthwise.measure.report.words import size
    from lengthwise.train.plan import NEXT

    longest = {row.name: row.tokens for row in rows}
    lines = ["", f"{what:<38}{'longest':>10}  {'the next lever':<23}the peak there lies in"]
    for row in rows:
        lever, name = NEXT.get(row.name, ("", ""))
        gives = (
            f"{lever}: x {longest[name] / row.tokens:.2f}" if name in longest and row.tokens else ""
        )
        mark = "" if tokens is None else ("  fits" if row.tokens >= tokens else "  too short")
        host = f", {size(row.peak.host)} on the host" if row.peak.host else ""
        lines.append(f"  {row.name:<36}{row.tokens:>10,}  {gives:<23}{place(row)}{host}{mark}")
    return lines


def place(row: "Longest") -> str:
    """Where the peak lies and what holds most there, beside weights and the optimizer's states."""
    from lengthwise.measure.report.words import size

    moment = row.peak.moment
    most = sorted(moment.kinds.items(), key=lambda kind: -kind[1])
    if not row.tokens:
        held = ", ".join(f"{name} {size(count)}" for name, count in most[:3])
        return f"no token fits: {held}"
    grown = [one for one in most if one[0] not in ("weights", "optimizer", "gradients")]
    name, count = grown[0]
    where = moment.where
    if where.startswith("layer "):
        where = " ".join(["a layer's", *where.split()[2:]])
    return f"{where} ({name} {size(count)})"


def check_length(
    tokens: int, found: "dict[int, list[Longest]]", device: "Device", room: int
) -> None:
    """Refuse a length that no lever makes fit.

    Raises:
        ValueError: With the longest that does.
    """
    from lengthwise.measure.report.words import size

    best, rank = max(
        ((row, rank) for rank, rows in found.items() for row in rows), key=lambda one: one[0].tokens
    )
    if best.tokens < tokens:
        most = f"the longest is {best.tokens:,}, {trained(rank)}, {best.name}"
        raise ValueError(
            f"no lever makes {tokens:,} tokens fit {device.name}'s {size(room)}: "
            + (most if best.tokens else "not even one token fits; train with --lora 16 or in "
               "bfloat16, or take a device with more memory")
        )  # fmt: skip


def training_record(
    found: "dict[int, list[Longest]]",
    device: "Device",
    room: int,
    dtype: "torch.dtype",
    batch: int,
    optimizer: str,
) -> dict[str, Any]:
    """All of it for a script."""
    return {
        "device": dataclasses.asdict(device),
        "room": room,
        "dtype": str(dtype).removeprefix("torch."),
        "batch": batch,
        "optimizer": optimizer,
        "rows": [
            {
                "lora": rank,
                "lever": row.name,
                "tokens": row.tokens,
                "peak": row.peak.total,
                "where": row.peak.moment.where,
                "kinds": row.peak.moment.kinds,
                "host": row.peak.host,
            }
            for rank, rows in found.items()
            for row in rows
        ],
    }
