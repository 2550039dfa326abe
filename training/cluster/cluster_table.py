"""The plan of a cluster as lines to read."""

from collections.abc import Callable, Iterable

from training.cluster.cluster_plan import CardBounds, Cluster, LinkBounds

PARTS = {  # of memory
    "weight_bytes": "weights",
    "gradient_bytes": "gradients",
    "accumulated_gradient_bytes": "whole gradients, added up",
    "optimizer_state_bytes": "optimizer states",
    "activation_bytes": "activations of a micro-batch",
    "loss_bytes": "loss, a chunk of logits",
    "gathered_bytes": "gathered layers",
    "reduction_bytes": "gradients on their way",
    "averaged_bytes": "averages of gradients, late",
    "transient_bytes": "optimizer's transients",
}
UNCOUNTED = (
    "(this method's work is not counted: the time is what every step must read and write, the memory the most of all)"
)


def cluster_lines(cluster: Cluster) -> list[str]:
    """Memory of a process by part, and for each card the bounds of a step."""
    count, rows = cluster["processes"], cluster["micro_batch_rows"]
    place = f"one of {count} processes, {cluster['parallel']}" if count > 1 else "one process"
    memory = cluster["memory"]
    return [
        "",
        f"on GPUs, {place}: {cluster['micro_batches']} micro-batches of {rows} rows a step, "
        f"{100 * cluster['filled']:.0f} % of positions computed, {'compiled' if cluster['compiled'] else 'eager'}",
        *(f"  {label:32} {size(memory[key]):>12}" for key, label in PARTS.items() if memory[key]),  # type: ignore[literal-required]
        f"  {'most at once':32} {size(memory['peak_bytes']):>12}",
        "",
        "bounds of a step from data sheets and counts, not measurements: no run is faster, most are much slower",
        *(["(messages go on during forward and backward; machines of 8 GPUs)"] if count > 1 else []),
        *([] if cluster["optimizer_counted"] else [UNCOUNTED]),
        *_bounds(cluster["cards"]),
    ]


def _bounds(cards: dict[str, CardBounds]) -> list[str]:
    bounds = list(cards.values())
    lines = [
        _line("", cards),
        _line("fits", ("yes" if card["fits"] else "NO" for card in bounds)),
        _line("products of the layers, ms", (_ms(card["products_seconds"]) for card in bounds)),
        _line("passes between them", (_ms(card["elementwise_seconds"]) for card in bounds)),
        _line("attention", (_ms(card["attention_seconds"]) for card in bounds)),
        _line("loss", (_ms(card["loss_seconds"]) for card in bounds)),
        _line("optimizer, no refresh", (_ms(card["optimizer_seconds"]) for card in bounds)),
    ]
    for link in bounds[0]["links"]:
        lines += _link_lines(link, [card["links"][link] for card in bounds])
    return [
        *lines,
        _line("cores a process to tokenise", (f"{card['data_cores']:.1f}" for card in bounds)),
        _line("  with data=prepared", (f"{card['prepared_data_cores']:.1f}" for card in bounds)),
    ]


def _link_lines(name: str, links: list[LinkBounds]) -> list[str]:
    over = "" if name == "alone" else {"nvlink": ", NVLink", "pcie": ", PCIe"}[name]
    shown: list[tuple[str, Callable[[LinkBounds], str]]] = [
        ("step", lambda link: _ms(link["step_seconds"])),
        ("targets a second", lambda link: f"{link['targets_per_second']:,.0f}"),
        ("model FLOPs utilisation", lambda link: f"{100 * link['mfu']:.0f} %"),
        ("bottleneck", lambda link: link["bottleneck"]),
    ]
    if over:
        shown.insert(0, ("weights stepped elsewhere", lambda link: _ms(link["dealing_seconds"])))
        shown.insert(0, ("communication", lambda link: _ms(link["communication_seconds"])))
    return [_line(label + over, (cell(link) for link in links)) for label, cell in shown]


def _line(label: str, cells: Iterable[str]) -> str:
    return f"  {label:32}" + "".join(f" {cell:>13}" for cell in cells)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f}"


def size(number: int) -> str:
    """Bytes to read."""
    return f"{number / 2**30:.3f} GiB" if number >= 2**27 else f"{number / 2**20:.2f} MiB"
